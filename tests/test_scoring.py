import json
from dataclasses import asdict, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from clip_helpers import tiny_config, write_clip
from feature_helpers import PROVENANCE
from manifest_helpers import CLASSES
from score_helpers import make_scores, make_video

from vadclip.clip.frozen import load_clip
from vadclip.errors import InputError
from vadclip.events import Peak
from vadclip.model.folder import ModelInfo, NamedClip, load_model, read_model_info, save_model
from vadclip.model.vadclip import VadClip, VadClipConfig
from vadclip.score.scores import ScoreInfo, read_scores, scores_table, write_scores
from vadclip.score.scoring import check_features_fit, score_videos

LENGTH = 8
PLAIN_KD = F.normalize(torch.randn(3, 64, generator=torch.Generator().manual_seed(0)), dim=-1)
INFO = ScoreInfo(CLASSES.labels, test_selected=False, excluded={})
CONFIG = VadClipConfig(64, LENGTH, layers=1, window=4, heads=1, prompt_prefix=2, prompt_suffix=1)


class MemoryFeatures:
    """Crop c of a video is its array, shifted by c."""

    def __init__(self, arrays):
        self.arrays = arrays

    def rows(self, video_id):
        return len(self.arrays[video_id])

    def array(self, video_id, crop):
        return (self.arrays[video_id] + crop).astype(np.float16)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return load_clip(write_clip(tmp_path_factory.mktemp("clip"), tiny_config()), device="cpu").text


@pytest.fixture(scope="module")
def model(text):
    torch.manual_seed(0)
    return VadClip(CONFIG, CLASSES, text).eval()


@pytest.fixture(scope="module")
def features():
    """Lengths around multiples of T: 1, T - 1, T, T + 1, 3 T and more."""
    rng = np.random.default_rng(0)
    lengths = (1, LENGTH - 1, LENGTH, LENGTH + 1, 3 * LENGTH, 29)
    return MemoryFeatures({f"v{n:02d}": rng.normal(0, 0.4, (n, 64)).astype(np.float16) for n in lengths})


def _score(model, features, names=None, **settings):
    videos = [make_video(name, 1) for name in names or features.arrays]
    settings = {"crop": 0, "precision": "fp32", "batch_chunks": 3, "info": INFO, **settings}
    settings = {"plain_text_KD": PLAIN_KD, **settings}
    return score_videos(model, features, videos, **settings)


def test_equals_a_direct_computation_chunk_by_chunk(model, features):
    scores = _score(model, features, crop=1)
    anomaly, probabilities, logits = [], [], []
    with torch.no_grad():
        for video_id in features.arrays:
            rows_ND = torch.from_numpy(features.array(video_id, 1)).float()
            for chunk_TD in rows_ND.split(LENGTH):
                padded_1TD = torch.zeros(1, LENGTH, 64)
                padded_1TD[0, : len(chunk_TD)] = chunk_TD
                output = model(padded_1TD, torch.tensor([len(chunk_TD)]))
                anomaly.append(output.anomaly_logits_BT[0, : len(chunk_TD)].sigmoid())
                probabilities.append(output.class_logits_BTK[0, : len(chunk_TD)].softmax(-1))
                logits.append(output.class_logits_BTK[0, : len(chunk_TD)])
    assert scores.video_ids == tuple(features.arrays)
    np.testing.assert_array_equal(scores.rows_V, [len(rows) for rows in features.arrays.values()])
    np.testing.assert_allclose(scores.anomaly_score_N, torch.cat(anomaly), atol=2e-6)
    np.testing.assert_allclose(scores.class_probabilities_NK, torch.cat(probabilities), atol=2e-6)
    np.testing.assert_allclose(scores.class_logits_NK, torch.cat(logits), atol=5e-5)
    rows_ND = torch.cat([torch.from_numpy(features.array(name, 1)).float() for name in features.arrays])
    cosine_NK = F.cosine_similarity(rows_ND[:, None], PLAIN_KD[None], dim=-1)
    np.testing.assert_allclose(scores.zero_shot_NK, (cosine_NK / 0.07).softmax(-1), atol=2e-6)
    assert scores.anomaly_score_N.std() > 1e-3, "scores that are all alike would prove nothing"


@pytest.mark.parametrize("batch_chunks", [1, 4, 100])
def test_neighbours_and_the_size_of_a_pass_do_not_matter(model, features, batch_chunks):
    expected = _score(model, features)
    names = list(reversed(features.arrays))
    scores = _score(model, features, names, batch_chunks=batch_chunks).select(features.arrays)
    np.testing.assert_allclose(scores.anomaly_score_N, expected.anomaly_score_N, atol=2e-6)
    np.testing.assert_allclose(scores.class_probabilities_NK, expected.class_probabilities_NK, atol=2e-6)


def test_class_text_features_are_computed_once(model, features, monkeypatch):
    calls = []
    original = model.text_features
    monkeypatch.setattr(model, "text_features", lambda: calls.append(1) or original())
    _score(model, features, batch_chunks=1)
    assert len(calls) == 1


def test_bf16_is_near_fp32_but_not_the_same(model, features):
    fine, coarse = _score(model, features), _score(model, features, precision="bf16")
    assert coarse.anomaly_score_N.dtype == np.float32
    difference = np.abs(fine.anomaly_score_N - coarse.anomaly_score_N).max()
    assert 0 < difference < 0.02


def test_a_score_that_is_not_finite_names_its_video(model, features):
    damaged = MemoryFeatures({**features.arrays, "v09": np.full((9, 64), np.nan, dtype=np.float16)})
    with pytest.raises(InputError, match="scores of v09 are not finite: its features are damaged"):
        _score(model, damaged)


def test_scores_file_round_trip(tmp_path, model, features):
    info = ScoreInfo(
        CLASSES.labels, test_selected=True, excluded={"gone": "it is empty"}, lost_frames={"v09": 3},
        normal_peaks=(Peak("v01", 0.25, 0.5), Peak("v07", 0.5, None)), selection="validation",
    )  # fmt: skip
    scores = _score(model, features, info=info)
    path = tmp_path / "scores.parquet"
    write_scores(scores_table(scores), path)
    first = path.read_bytes()
    back = read_scores(path)
    assert (back.video_ids, back.info) == (scores.video_ids, info)
    for name in ("rows_V", "anomaly_score_N", "class_probabilities_NK", "log_normaliser_N", "zero_shot_NK"):
        np.testing.assert_array_equal(getattr(back, name), getattr(scores, name))
    write_scores(scores_table(back), path)
    assert path.read_bytes() == first
    columns = read_columns(path)
    assert columns[:4] == ["video_id", "snippet", "anomaly_score", "class_probabilities"]


def read_columns(path):
    import pyarrow.parquet as pq

    return pq.read_schema(path).names


def test_scores_of_no_video_can_be_written_and_read(tmp_path, model, features):
    empty = make_scores({"a": [0.5]}).select([])
    write_scores(scores_table(empty), tmp_path / "scores.parquet")
    assert read_scores(tmp_path / "scores.parquet").video_ids == ()


def test_scores_files_that_cannot_be_used(tmp_path):
    path = tmp_path / "scores.parquet"
    with pytest.raises(InputError, match="no such scores; the score stage writes them"):
        read_scores(path)
    path.write_text("nothing of the kind")
    with pytest.raises(InputError, match="is not a readable scores table"):
        read_scores(path)
    table = scores_table(make_scores({"a": [0.1, 0.2], "b": [0.3, 0.4]}))
    write_scores(table.replace_schema_metadata({}), path)
    with pytest.raises(InputError, match="is no scores table of version 2"):
        read_scores(path)
    write_scores(table.take([0, 2, 1, 3]), path)
    with pytest.raises(InputError, match=r"row 1 \(b\) is out of order"):
        read_scores(path)
    write_scores(table.take([1, 0, 2, 3]), path)
    with pytest.raises(InputError, match=r"row 0 \(a\) is out of order"):
        read_scores(path)
    metadata = {**table.schema.metadata, b"vadclip.labels": b'["Normal", "Fire"]'}
    write_scores(table.replace_schema_metadata(metadata), path)
    with pytest.raises(InputError, match="class_probabilities must hold 2 numbers a row"):
        read_scores(path)


def _info(**changes):
    settings = {
        "config": CONFIG,
        "classes": CLASSES,
        "clip": NamedClip("tiny", "tiny.safetensors", "abc", True),
        "feature_provenance": {"frames_per_snippet": 1, "crops": [0, 1]},
        "feature_fingerprint": "def",
        "selection": "validation",
        "epoch": 3,
        "validation": {"val_video_auc": 0.75},
        "test_selected": False,
        "test_crop": 5,
        "score_precision": "fp32",
        "normal_peaks": (Peak("a", 0.25, 0.5), Peak("b", 0.5, None)),
    }
    return ModelInfo(**{**settings, **changes})


def test_a_model_folder_gives_the_same_model_back(tmp_path, model, text, features):
    save_model(tmp_path, model, _info())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.json", "model.safetensors"]
    first = [path.read_bytes() for path in sorted(tmp_path.iterdir())]
    generator = torch.get_rng_state()
    back, info = load_model(tmp_path, _clip(text), "cpu")
    assert torch.equal(torch.get_rng_state(), generator), "loading must not move the caller's generator"
    assert info == _info()
    assert not back.training
    expected, scores = _score(model, features), _score(back, features)
    np.testing.assert_array_equal(scores.class_probabilities_NK, expected.class_probabilities_NK)
    np.testing.assert_array_equal(scores.anomaly_score_N, expected.anomaly_score_N)
    save_model(tmp_path, back, info)
    assert [path.read_bytes() for path in sorted(tmp_path.iterdir())] == first


def _clip(text, **other):
    return SimpleNamespace(**{"name": "tiny", "fingerprint": "abc", "weights": "w.pt", "text": text, **other})


def test_a_model_is_used_with_its_own_clip_and_features_only(tmp_path, model, text):
    save_model(tmp_path, model, _info())
    load_model(tmp_path, _clip(text), "cpu")
    with pytest.raises(
        InputError,
        match=r"with CLIP tiny \(weights abc\), and .* ViT-B-16-quickgelu \(weights xyz of w\.pt\)",
    ):
        load_model(tmp_path, _clip(text, name="ViT-B-16-quickgelu", fingerprint="xyz"), "cpu")
    info = _info(feature_provenance=asdict(PROVENANCE))
    check_features_fit(info, PROVENANCE)
    with pytest.raises(InputError, match=r"made otherwise .*\(frames_per_snippet 16, not 1\)"):
        check_features_fit(info, replace(PROVENANCE, frames_per_snippet=16))


def test_the_weights_file_holds_trained_parameters_only(tmp_path, model):
    from safetensors import safe_open

    save_model(tmp_path, model, _info())
    with safe_open(tmp_path / "model.safetensors", "pt") as opened:
        assert sorted(opened.keys()) == sorted(name for name, _ in model.named_parameters())


def test_a_model_of_the_version_before_is_read_without_thresholds(tmp_path, model, text):
    save_model(tmp_path, model, _info())
    content = json.loads((tmp_path / "model.json").read_text())
    clip = content.pop("clip")
    content |= {f"clip_{name}": clip[name] for name in ("name", "fingerprint", "quick_gelu")}
    for name in ("test_crop", "score_precision", "normal_peaks"):
        del content[name]
    (tmp_path / "model.json").write_text(json.dumps({**content, "version": 1}))
    _, info = load_model(tmp_path, _clip(text), "cpu")
    assert info == _info(clip=NamedClip("tiny", "", "abc", True), test_crop=0, normal_peaks=())


def test_model_folders_that_cannot_be_used(tmp_path, model, text):
    with pytest.raises(InputError, match="no such file; the train stage writes it"):
        read_model_info(tmp_path)
    (tmp_path / "model.json").write_text("{")
    with pytest.raises(InputError, match=r"model\.json is not JSON"):
        read_model_info(tmp_path)
    (tmp_path / "model.json").write_text('{"version": 0}')
    with pytest.raises(InputError, match=r"is no model\.json of version 2"):
        read_model_info(tmp_path)
    save_model(tmp_path, model, _info(config=VadClipConfig(**{**vars(CONFIG), "layers": 2})))
    with pytest.raises(InputError, match=r"model\.safetensors does not fit: .*Missing key"):
        load_model(tmp_path, _clip(text), "cpu")
    (tmp_path / "model.safetensors").write_bytes(b"another file")
    with pytest.raises(InputError, match=r"is missing or not the one that model\.json was written for"):
        load_model(tmp_path, _clip(text), "cpu")
