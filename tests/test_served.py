import ast
import dataclasses
import re
import sys

import numpy as np
import pytest
import torch
from clip_helpers import clip_params
from conftest import PROJECT
from detect_helpers import make_model, make_videos
from mlflow.exceptions import MlflowException
from safetensors.torch import load_file
from training_helpers import CLASSES, task, text_tower

from vadclip.config import ClipParams
from vadclip.detect.detector import Detector
from vadclip.errors import InputError
from vadclip.model.folder import save_model
from vadclip.model.inference import class_texts, video_output
from vadclip.model.vadclip import VadClip
from vadclip.tracking.served import (
    PACKAGES,
    TEXT_FILE,
    ServedModel,
    allowed_place,
    requirements,
    write_served,
)

TEXT = text_tower()
FEATURES = np.random.default_rng(0).standard_normal((2, 19, 16)).astype(np.float32)


def _served(folder, **changes):
    todo = task(TEXT)
    todo = dataclasses.replace(todo, config=dataclasses.replace(todo.config, **changes))
    torch.manual_seed(0)
    model = VadClip(todo.config, CLASSES, TEXT).eval()
    save_model(folder / "model", model, todo.model_info(1, None, ()))
    text_KD = class_texts(model, "fp32")
    clip = ClipParams(model="ViT-B-16", pretrained="openai", quick_gelu=None, precision="fp32")
    data, _ = write_served(folder / "served", folder / "model", text_KD, clip)
    outputs = [video_output(model, rows, text_KD, "fp32") for rows in FEATURES]
    return data, outputs


@pytest.mark.parametrize("prompt", ["learned", "hand_crafted"])
def test_both_branches_equal_the_model_with_its_text_tower(tmp_path, prompt):
    data, outputs = _served(tmp_path, prompt=prompt)
    found = ServedModel(data).predict(FEATURES)
    assert {name: array.shape for name, array in found.items()} == {
        "anomaly_score": (2, 19),
        "class_probabilities": (2, 19, 3),
    }
    for number, output in enumerate(outputs):
        scores, classes = output.anomaly_logits_BT[0].sigmoid(), output.class_logits_BTK[0].softmax(-1)
        np.testing.assert_allclose(found["anomaly_score"][number], scores, atol=1e-6)
        np.testing.assert_allclose(found["class_probabilities"][number], classes, atol=1e-6)


def test_a_model_without_the_alignment_branch_has_no_class_probabilities(tmp_path):
    data, outputs = _served(tmp_path, branches="classification")
    assert not (data / TEXT_FILE).exists()
    found = ServedModel(data).predict(FEATURES)
    assert found.keys() == {"anomaly_score"}
    np.testing.assert_allclose(
        found["anomaly_score"][1], outputs[1].anomaly_logits_BT[0].sigmoid(), atol=1e-6
    )


def test_a_model_without_the_classification_branch_scores_by_what_is_not_normal(tmp_path):
    data, outputs = _served(tmp_path, branches="alignment", visual_prompt="average_frame")
    found = ServedModel(data).predict(FEATURES)
    normal = outputs[0].class_logits_BTK[0].softmax(-1)[:, 0]
    np.testing.assert_allclose(found["anomaly_score"][0], 1 - normal, atol=1e-6)


@pytest.mark.parametrize("shape", [(3, 16), (1, 3, 17), (1, 0, 16)])
def test_features_of_another_shape_are_an_error(tmp_path, shape):
    data, _ = _served(tmp_path)
    with pytest.raises(MlflowException, match=r"expected \[videos, snippets, 16\] with one snippet at least"):
        ServedModel(data).predict(np.zeros(shape, np.float32))


def test_no_weight_of_the_clip_is_served(tmp_path):
    data, _ = _served(tmp_path)
    assert sorted(path.name for path in data.iterdir()) == [TEXT_FILE, "model.json", "model.safetensors"]
    names = load_file(data / "model.safetensors").keys()
    assert not any("token_embedding" in name or "transformer.resblocks" in name for name in names)


def _third_party(module, seen):
    """Packages that a module of ours imports when it is imported, and those that it imports in turn."""
    if module in seen:
        return set()
    seen.add(module)
    path = PROJECT / f"{module.replace('.', '/')}.py"
    if not path.exists():
        path = path.with_suffix("") / "__init__.py"
    found = set()
    for node in ast.parse(path.read_text()).body:
        names = [node.module] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        for name in names:
            package = name.split(".")[0]
            if package == "vadclip":
                found |= _third_party(name, seen)
            elif package not in sys.stdlib_module_names:
                found.add(
                    {"open_clip": "open_clip_torch", "yaml": "pyyaml", "PIL": "pillow"}.get(package, package)
                )
    return found


def test_the_requirements_are_what_the_served_code_imports():
    # torchvision comes through open_clip, and must fit torch: both are pinned.
    # decord and fsspec are imported where a video needs them.
    found = _third_party("vadclip.tracking.served", set()) | {"torchvision", "decord", "fsspec"}
    assert set(PACKAGES) == found
    assert not found & {"ray", "dvc", "mlflow"}
    assert all(re.fullmatch(r"[\w]+==[\w.]+(; sys_platform == .*)?", line) for line in requirements())


@pytest.fixture(scope="module")
def watching(tmp_path_factory):
    """What is logged of a model with a small CLIP, and a folder of videos."""
    folder = tmp_path_factory.mktemp("watching")
    model = make_model(folder)
    clip = clip_params(folder)
    data, code = write_served(folder / "served", model, None, clip)
    make_videos(folder / "videos", 1)
    return data, code, folder / "videos"


def test_a_video_gives_its_events(watching, monkeypatch):
    data, _, videos = watching
    (videos / "text.mp4").write_text("not a video")
    monkeypatch.setenv("VADCLIP_SERVE_ROOTS", f"s3://elsewhere, {videos}")
    model = ServedModel(data)
    asked = {"input": "videos", "threshold": 0.2}
    found, broken = model.predict(np.array([str(videos / "v0.mp4"), str(videos / "text.mp4")]), asked)
    expected = Detector.load(data, threshold=0.2).detect(videos / "v0.mp4")
    assert expected.events
    assert [event["start_frame"] for event in found["events"]] == [e.start_frame for e in expected.events]
    assert found["peak_score"] == pytest.approx(expected.scores.max())
    assert found["threshold"] == 0.2
    assert broken["error"].startswith("FFmpeg cannot read it as a video")
    # Without one in the request the model's own is taken.
    assert model.predict([str(videos / "v0.mp4")], {"input": "videos"})[0]["threshold"] == pytest.approx(
        0.525
    )
    for name, value, message in (
        ("GIB", "0.000001", "GiB, more than"),
        ("SECONDS", "0", "takes longer than"),
    ):
        monkeypatch.setenv(f"VADCLIP_SERVE_{name}", value)
        (refused,) = model.predict([str(videos / "v0.mp4")], asked)
        assert message in refused["error"]
        monkeypatch.delenv(f"VADCLIP_SERVE_{name}")


@pytest.mark.parametrize(
    ("roots", "request_", "message"),
    [
        ("", ["/any.mp4"], "this server opens no videos: VADCLIP_SERVE_ROOTS names no folder"),
        ("here", ["/etc/passwd"], "it is not below what VADCLIP_SERVE_ROOTS allows"),
        ("here", ["v.mp4"] * 17, "17 videos in a request"),
    ],
)
def test_a_bad_request_is_said(watching, monkeypatch, roots, request_, message):
    monkeypatch.setenv("VADCLIP_SERVE_ROOTS", str(watching[2]) if roots else "")
    model = ServedModel(watching[0])
    with pytest.raises(MlflowException, match=message) as refused:
        model.predict(request_, {"input": "videos"})
    assert refused.value.get_http_status_code() == 400
    with pytest.raises(MlflowException, match="must be 'features' or 'videos'"):
        model.predict(request_, {"input": "pictures"})


def test_nothing_outside_the_roots_is_opened(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "out.mp4").touch()
    (tmp_path / "in" / "link.mp4").symlink_to(tmp_path / "out.mp4")
    roots = [str(tmp_path / "in"), "https://example.org/cameras"]
    assert allowed_place(f"{tmp_path}/in/../in/a.mp4", roots) == f"{tmp_path}/in/a.mp4"
    assert allowed_place("https://example.org/cameras/a.mp4", roots) == "https://example.org/cameras/a.mp4"
    for path in (
        f"{tmp_path}/out.mp4", f"{tmp_path}/in/../out.mp4", f"{tmp_path}/in/link.mp4", f"{tmp_path}/inside",
        f"file://{tmp_path}/in/a.mp4", "https://example.org/cameras/%2e%2e/a.mp4",
        "https://example.org/camerasX/a.mp4", "https://example.org.evil/cameras/a.mp4", "a\0b",
    ):  # fmt: skip
        with pytest.raises(InputError):
            allowed_place(str(path), roots)


def test_what_travels(watching, tmp_path):
    data, code, _ = watching
    assert sorted(path.name for path in data.iterdir()) == [
        "clip.json", "clip.safetensors", "model.json", "model.safetensors",
    ]  # fmt: skip
    assert [path.name for path in (code / "sample").iterdir()] == ["__init__.py"]
    assert (code / "detect" / "detector.py").exists()
