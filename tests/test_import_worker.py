"""Released features into a shard: bits kept, and everything that is wrong with a file said."""

from dataclasses import replace

import numpy as np
import pytest
from feature_helpers import index_rows
from manifest_helpers import make_video

from vadclip.clip.identity import clip_width
from vadclip.config import ClipParams, ExtractParams
from vadclip.errors import InputError
from vadclip.extract.fill import fill_store
from vadclip.extract.import_worker import ImportWorker, is_vit_b16
from vadclip.extract.store import FeatureStore
from vadclip.extract.units import Slice, Unit
from vadclip.features.npy_files import feature_shape
from vadclip.features.provenance import Provenance
from vadclip.labels import UCF_CRIME
from vadclip.manifest import Manifest
from vadclip.pool.work import Outcome

WIDTH = 512
PROVENANCE = Provenance.imported(WIDTH)


def _rows(count, dtype=np.float16, *, dimension=6.0, norm=10.0, width=WIDTH):
    rows = np.random.default_rng(count).standard_normal((count, width))
    if width > 442:
        rows[:, 442] = 0
        rows *= np.sqrt(100 - dimension**2) / np.linalg.norm(rows, axis=1, keepdims=True)
        rows[:, 442] = dimension
    return (rows * norm / np.linalg.norm(rows, axis=1, keepdims=True)).astype(dtype)


def _slice(folder, name, rows, crops=(0,), start=0, stop=None):
    return Slice(name, f"hash of {name}", str(folder / name), 16 * rows, crops, start, stop or rows)


def _run(folder, *slices, of_vit_b16=True):
    beats = []
    report = ImportWorker(PROVENANCE, of_vit_b16).run(Unit(slices, 1), beats.append)
    return report, beats


def _failure(folder, name, rows=7, crops=(0,), **options):
    report, _ = _run(folder, _slice(folder, name, rows, crops), **options)
    assert report.blocks == []
    [failure] = report.failures
    assert (failure.video_id, failure.lasting) == (name, True)
    return failure.error


def test_rows_keep_their_bits_and_slices_their_place(tmp_path):
    half, whole = _rows(7), _rows(9, np.float32)
    for crop in (0, 3):
        np.save(tmp_path / f"half__{crop}.npy", np.roll(half, crop, axis=0))
    np.save(tmp_path / "whole__0.npy", whole)
    report, beats = _run(tmp_path, _slice(tmp_path, "half", 7, (0, 3), start=2, stop=6), of_vit_b16=False)
    assert [(block.crop, block.start, block.stop, block.rows) for block in report.blocks] == [
        (0, 2, 6, 4),
        (3, 2, 6, 4),
    ]
    assert report.arrays[0].tobytes() == half[2:6].tobytes()
    assert report.arrays[1].tobytes() == np.roll(half, 3, axis=0)[2:6].tobytes()
    assert sum(beats) == report.counts["rows_imported"] == 8
    report, _ = _run(tmp_path, _slice(tmp_path, "whole", 9))
    assert np.array_equal(report.arrays[0], whole.astype(np.float16))


def test_rows_of_other_types_and_byte_orders_are_the_same_rows(tmp_path):
    rows = _rows(7)
    for name, array in {"f8": rows.astype("<f8"), "big": rows.astype(">f4"), "boxed": rows[None]}.items():
        np.save(tmp_path / f"{name}__0.npy", array)
        assert feature_shape(tmp_path / f"{name}__0.npy")[0] == 7
        report, _ = _run(tmp_path, _slice(tmp_path, name, 7))
        assert not report.failures
        np.testing.assert_array_equal(report.arrays[0], rows)


def test_the_width_needs_no_weights():
    params = ClipParams(model="ViT-B-16-quickgelu", pretrained="openai", quick_gelu=None, precision="fp32")
    assert clip_width(params) == 512


def test_what_is_wrong_with_a_video_is_its_failure_and_no_others(tmp_path):
    np.save(tmp_path / "good__0.npy", _rows(7))
    np.save(tmp_path / "narrow__0.npy", _rows(7, width=64))
    broken = _rows(7)
    broken[3, 5] = np.nan
    np.save(tmp_path / "broken__0.npy", broken)
    np.save(tmp_path / "large__0.npy", _rows(7, np.float32, norm=3e6))
    np.save(tmp_path / "other__0.npy", _rows(7, dimension=0.5))
    np.save(tmp_path / "faint__0.npy", _rows(7, norm=0.01))
    np.save(tmp_path / "objects__0.npy", np.array([{"a": 1}], object), allow_pickle=True)
    (tmp_path / "text__0.npy").write_text("no array")
    np.save(tmp_path / "short__0.npy", _rows(6))
    names = ("good", "narrow", "broken", "large", "other", "faint", "objects", "text", "short", "missing")
    report, _ = _run(tmp_path, *(_slice(tmp_path, name, 7) for name in names))
    assert [block.video_id for block in report.blocks] == ["good"]
    reasons = {failure.video_id: failure.error for failure in report.failures}
    assert list(reasons) == list(names[1:])
    for name, beginning in {
        "narrow": "crop 0 has rows of 64 numbers, and the CLIP that params.yaml names has a joint dimen",
        "broken": "crop 0 holds values that are not finite in float16",
        "large": "crop 0 holds values that are not finite in float16",
        "other": "crop 0 is of another CLIP than ViT-B/16: dimension 442 is +0.05 of a row's norm, and",
        "faint": "crop 0 has rows of norm 0.01, and ViT-B/16's have 8.8 to 11",
        "objects": "objects__0.npy is no plain array",
        "text": "text__0.npy is no plain array",
        "short": "crop 0 has 6 rows, the manifest says 7",
        "missing": "missing__0.npy is missing",
    }.items():
        assert reasons[name].startswith(beginning), reasons[name]


def test_a_missing_crop_is_named(tmp_path):
    for crop in (0, 1, 3):
        np.save(tmp_path / f"some__{crop}.npy", _rows(7))
    assert _failure(tmp_path, "some", crops=(0, 1, 2, 3)) == "some__2.npy is missing"


def test_another_clip_of_that_width_is_fine_where_params_name_another(tmp_path):
    np.save(tmp_path / "other__0.npy", _rows(7, dimension=0.5))
    report, _ = _run(tmp_path, _slice(tmp_path, "other", 7), of_vit_b16=False)
    assert not report.failures


def test_which_params_name_vit_b16():
    named = [("ViT-B-16-quickgelu", "openai"), ("ViT-B-16-quickgelu", "clip.safetensors"),
             ("ViT-B-16-quickgelu", "metaclip_400m"), ("ViT-L-14-quickgelu", "openai"),
             ("clip.json", "clip.safetensors")]  # fmt: skip
    found = [
        is_vit_b16(ClipParams(model=model, pretrained=weights, quick_gelu=None, precision="fp32"))
        for model, weights in named
    ]
    assert found == [True, True, False, False, False]


def test_l2_normalised_rows_stop_the_run(tmp_path):
    np.save(tmp_path / "unit__0.npy", _rows(7, norm=1))
    with pytest.raises(
        InputError, match=r"unit__0\.npy: its rows have norm 1\.00, so they are L2-normalised; .*raw"
    ):
        _run(tmp_path, _slice(tmp_path, "unit", 7))


def test_real_features_are_recognised(tmp_path, shared_folder):
    """The shared ones are real, of ViT-B/16, and L2-normalised."""
    real = np.load(next((shared_folder / "data" / "features").glob("*.npy")))[:400]
    count = len(real)
    np.save(tmp_path / "real__0.npy", real)
    with pytest.raises(InputError, match="L2-normalised"):
        _run(tmp_path, _slice(tmp_path, "real", count))
    np.save(tmp_path / "real__0.npy", (10 * real).astype(np.float16))
    report, _ = _run(tmp_path, _slice(tmp_path, "real", count))
    assert not report.failures


def _store(tmp_path):
    return FeatureStore(tmp_path / "features", tmp_path / ".cache", PROVENANCE)


def test_it_fills_a_store_goes_on_and_keeps_to_the_budget(tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    videos = tuple(
        make_video(name, 16 * 7, split, uri=name, content_hash=name, width=0, height=0, fps=0.0)
        for name, split in (("a", "train"), ("b", "train"), ("c", "test"))
    )
    for name in "abc":
        for crop in range(10):
            np.save(root / f"{name}__{crop}.npy", _rows(7))
    (root / "b__4.npy").unlink()
    manifest = Manifest("ucf_crime", "official_features", UCF_CRIME, videos)
    params = ExtractParams(
        frames_per_snippet=1, train_crops=10, test_crop=5, max_failed_fraction=0.0, max_lost_fraction=0.05
    )
    given = []

    def run_units(units, **callbacks):
        given.extend(units)
        worker = ImportWorker(PROVENANCE, True)
        for unit in units:
            yield Outcome(unit, worker.run(unit, callbacks["progress"]), None)

    def fill(manifest):
        store = _store(tmp_path)
        return fill_store(store, manifest.videos, str(root), params, unit_images=50, run_units=run_units)

    filled = fill(manifest)
    rows = index_rows(tmp_path)
    assert {row.video_id: (row.status, row.rows, row.crops) for row in rows} == {
        "a": ("ok", 7, tuple(range(10))),
        "b": ("failed", 0, ()),
        "c": ("ok", 7, (5,)),
    }
    assert rows[0].error is None
    assert " imported rows in" in filled.summary()
    with pytest.raises(InputError, match=r"1 of 3 videos failed.*b \(b__4\.npy is missing\)"):
        filled.check_budget(params.max_failed_fraction)
    given.clear()
    assert "nothing was missing" in fill(manifest).summary()
    assert given == []
    np.save(root / "b__4.npy", _rows(7))  # the probe sees other content then
    repaired = replace(videos[1], content_hash="b with crop 4")
    fill(replace(manifest, videos=(videos[0], repaired, videos[2])))
    assert {part.video_id for unit in given for part in unit.slices} == {"b"}
    assert [row.status for row in index_rows(tmp_path)] == ["ok"] * 3
