"""The authors' features through ingest: rows from headers alone, and both test sets at their true lengths."""

import numpy as np
import pytest
from params_helpers import dataset_params

from vadclip.config import IngestParams
from vadclip.errors import InputError
from vadclip.ingest.rows import ingest
from vadclip.manifest import Segment

SPLIT = IngestParams(val_fraction=0.25, seed=0)


def _crop(folder, name, crop, rows, width=4, dtype=np.float16):
    path = folder / f"{name}__{crop}.npy"
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, np.full((rows, width), crop + 0.5, dtype))
    return path


def _ucf(tmp_path, train, test):
    annotations = tmp_path / "lists"
    annotations.mkdir()
    for name, videos in (("ucf_CLIP_rgb.csv", train), ("ucf_CLIP_rgbtest.csv", test)):
        rows = [f"/foreign/place/{video}__0.npy,{video.split('/')[0]}" for video in videos]
        (annotations / name).write_text("\n".join(["path,label", *rows]) + "\n")
    lines = [f"{video.split('/')[1]}  {video.split('/')[0]}  20  60  -1  -1" for video in test]
    (annotations / "Temporal_Anomaly_Annotation.txt").write_text("\n".join(lines) + "\n")
    root = str(tmp_path / "root")
    return dataset_params("ucf_crime", root=root, source="official_features", annotations=str(annotations))


def test_official_features_need_no_video(tmp_path):
    root = tmp_path / "root"
    for crop in range(10):
        _crop(root / "Abuse", "Abuse001_x264", crop, 7)
    _crop(root, "Arson011_x264", 5, 3, dtype=np.float32)  # ends at 48, annotated to 60
    _crop(root, "Arrest001_x264", 0, 0)
    _crop(root, "Arrest002_x264", 0, 5)
    _crop(root, "Arrest002_x264", 1, 6)
    np.save(root / "Arrest003_x264__0.npy", np.array([{"a": 1}], object), allow_pickle=True)
    np.save(root / "Arrest004_x264__0.npy", np.zeros((4, 4), int))
    cut = _crop(root, "Arrest005_x264", 0, 5)
    cut.write_bytes(cut.read_bytes()[:-1])
    (root / "Arrest006_x264__0.npy").write_text("no array")
    train = ["Abuse/Abuse001_x264", *(f"Arrest/Arrest00{i}_x264" for i in range(1, 8))]
    params = _ucf(tmp_path, train, ["Arson/Arson011_x264"])
    manifest = ingest(params, SPLIT, probe_cache=tmp_path / "probe.parquet").manifest
    assert manifest.source == "official_features"
    videos = {video.video_id.removesuffix("_x264"): video for video in manifest.videos}
    abuse, arson = videos["Abuse001"], videos["Arson011"]
    assert (abuse.uri, abuse.num_frames, abuse.num_snippets, abuse.fps) == (
        "Abuse/Abuse001_x264",
        112,
        7,
        0.0,
    )
    assert abuse.bytes == sum(path.stat().st_size for path in (root / "Abuse").iterdir())
    assert (arson.segments, arson.frame_spans) == ((Segment(20, 60, "Arson"),), ((20, 48),))
    assert videos["Arrest001"].too_short
    errors = {name: video.probe_error for name, video in videos.items() if video.probe_error}
    assert errors == {
        "Arrest002": "its crops differ in shape: 5x4 and 6x4",
        "Arrest003": "crop 0: it holds Python objects, which are never loaded",
        "Arrest004": errors["Arrest004"],
        "Arrest005": "crop 0: it has 167 bytes and its header promises 168",
        "Arrest006": errors["Arrest006"],
        "Arrest007": "there is no crop file (<name>__<crop>.npy) of it",
    }
    assert errors["Arrest004"].startswith("crop 0: it holds int64 of shape [4, 4], and features are floats")
    assert errors["Arrest006"].startswith("crop 0: it is no .npy file (")
    _crop(root / "Abuse", "Abuse001_x264", 9, 7, dtype=np.float32)
    again = ingest(params, SPLIT, probe_cache=tmp_path / "probe.parquet").manifest.videos
    assert [old.video_id for old, new in zip(manifest.videos, again, strict=True) if old != new] == [
        "Abuse001_x264"
    ]


def test_a_release_of_another_kind_is_refused_once(tmp_path):
    (tmp_path / "root").mkdir()
    names = [f"Arrest00{number}_x264" for number in range(1, 4)]
    for rows, name in enumerate(names, 3):
        np.save(tmp_path / "root" / f"{name}__0.npy", np.zeros((rows, 10, 4), np.float32))
    params = _ucf(tmp_path, [f"Arrest/{name}" for name in names[1:]], [f"Arrest/{names[0]}"])
    with pytest.raises(InputError, match=r"all 3 feature files have the same fault, .*_x264__0\.npy for"):
        ingest(params, SPLIT, probe_cache=tmp_path / "probe.parquet")
