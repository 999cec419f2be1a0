"""The official label files as read: whole, in small, and with everything that can be wrong with them."""

import json
import os
import shutil
from collections import Counter

import pytest
from params_helpers import dataset_params

from vadclip.datasets import load_dataset
from vadclip.errors import InputError
from vadclip.labels import UCF_CRIME, XD_VIOLENCE
from vadclip.manifest import Segment, frame_spans


def _official(name, root, annotations, source="official_features"):
    return dataset_params(name, root=str(root), source=source, annotations=str(annotations))


@pytest.fixture
def lists(shared_folder):
    return shared_folder / "data" / "annotations" / "vadclip_official" / "list"


def _touch(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


@pytest.mark.parametrize("source", ["videos", "official_features"])
@pytest.mark.parametrize(
    ("name", "train", "test", "classes", "frame_truth", "segment_truth"),
    [
        ("ucf_crime", 1610, 290, UCF_CRIME, 84_189, 84_189),
        ("xd_violence", 3954, 800, XD_VIOLENCE, 538_324, 538_459),
    ],
)
def test_official_lists_parse_whole(
    name, train, test, classes, frame_truth, segment_truth, source, lists, tmp_path
):
    first = {"ucf_crime": "Abuse001_x264", "xd_violence": "Bad.Boys.1995__#00-26-51_00-27-53_label_B2-0-0"}[
        name
    ]
    _touch(tmp_path / "deep" / "er" / f"{first}.mp4", tmp_path / f"{first}__7.npy")
    raw = load_dataset(_official(name, tmp_path, lists, source))
    assert Counter(video.split for video in raw.videos) == {"train": train, "test": test}
    assert raw.classes == classes
    assert {label for video in raw.videos for label in video.labels} == set(classes.labels)
    assert len({video.video_id for video in raw.videos}) == train + test
    found = next(video for video in raw.videos if video.video_id == first)
    assert found.uri == (f"deep/er/{first}.mp4" if source == "videos" else first)

    frames = segments = 0
    for video in raw.videos:
        parts = [(part.start_frame, part.end_frame) for part in video.segments]
        spans = parts if video.spans is None else video.spans
        assert video.split == "test" or not (parts or spans)
        frames += sum(end - start for start, end in frame_spans(spans, 10**9))
        segments += sum(end - start for start, end in frame_spans(parts, 10**9))
    assert (frames, segments) == (frame_truth, segment_truth)


@pytest.mark.parametrize(("name", "code"), [("ucf_crime", "ucf"), ("xd_violence", "xd")])
def test_segments_are_the_official_ground_truth(name, code, lists, tmp_path):
    first = {"ucf": "Abuse028_x264", "xd": "Bad.Boys.1995__#01-11-55_01-12-40_label_G-B2-B6"}[code]
    _touch(tmp_path / f"{first}__0.npy")
    videos = {video.video_id: video for video in load_dataset(_official(name, tmp_path, lists)).videos}
    truth = json.loads((lists.parent / f"gt_segments_{code}.json").read_text())
    assert len(truth) == {"ucf": 290, "xd": 800}[code]
    for entry in truth:
        video = videos[entry["path"].rsplit("/", 1)[-1].rsplit("__", 1)[0]]
        assert video.split == "test"
        official = [
            Segment(int(float(start)), int(float(end)), label)
            for (start, end), label in zip(entry["segments"], entry["labels"], strict=True)
        ]
        # Normal videos are annotated as [0, rows * 16) of class A there; metrics add that where it belongs.
        normal = video.labels == ({"ucf": "Normal", "xd": "A"}[code],)
        assert list(video.segments) == ([] if normal else official)
        if normal:
            assert {part.label for part in official} == {"A"}


def test_xd_sources_are_films(lists, tmp_path):
    _touch(tmp_path / "v=S-7rRLrxnVQ__#1_label_B4-0-0__0.npy")
    raw = load_dataset(_official("xd_violence", tmp_path, lists))
    train, test = ({v.source_id for v in raw.videos if v.split == split} for split in ("train", "test"))
    assert len(train & test) == 184
    clips = Counter(video.source_id for video in raw.videos if video.split == "train")
    assert sum(count for count in clips.values() if count > 1) == 2551  # clips that have a sibling
    assert max(clips.values()) == 42
    one = next(video for video in raw.videos if video.video_id == "v=S-7rRLrxnVQ__#1_label_B4-0-0")
    assert (one.source_id, one.uri, one.spans) == ("v=S-7rRLrxnVQ", one.video_id, ((0, 1517), (1970, 3038)))


# Small official worlds of our own, so that what can go wrong is seen without the shared folder


UCF_LISTS = {
    "Anomaly_Train.txt": """
Abuse/Abuse001_x264.mp4
Training_Normal_Videos_Anomaly/Normal_Videos001_x264.mp4
""",
    "Anomaly_Test.txt": """
Arson/Arson011_x264.mp4
Testing_Normal_Videos_Anomaly/Normal_Videos_003_x264.mp4
""",
    "ucf_CLIP_rgb.csv": """path,label
/x/UCF/Abuse/Abuse001_x264__0.npy,Abuse
/x/UCF/Abuse/Abuse001_x264__1.npy,Abuse
/x/UCF/Training_Normal_Videos_Anomaly/Normal_Videos001_x264__0.npy,Normal
""",
    "ucf_CLIP_rgbtest.csv": """path,label
/x/UCF/Arson/Arson011_x264__5.npy,Arson
/x/UCF/Testing_Normal_Videos_Anomaly/Normal_Videos_003_x264__5.npy,Normal
""",
    "Temporal_Anomaly_Annotation.txt": """
Arson011_x264.mp4  Arson  150  420  680  1267
Normal_Videos_003_x264.mp4  Normal  -1  -1  -1  -1
""",
}
XD_LISTS = {
    "xd_CLIP_rgb.csv": """path,label
/x/A.b.2001__#1-2_label_A__0.npy,A
/x/v=9__#1_label_B1-B2-0__0.npy,B1-B2-0
""",
    "xd_CLIP_rgbtest.csv": """path,label
/x/v=@7__#1_label_B6-0-0__0.npy,B6-0-0
/x/C.d__#3_label_A__0.npy,A
""",
    "annotations.txt": "v=@7__#1_label_B6-0-0.mp4 5 50 40 90\n",
    "annotations_multiclasses.txt": "v=@7__#1_label_B6-0-0 B6 5 50 G 40 90\n",
}


def _write(folder, lists):
    for name, text in lists.items():
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def places(tmp_path):
    """A folder for label files and a root."""
    (tmp_path / "lists").mkdir()
    (tmp_path / "root").mkdir()
    return tmp_path / "lists", tmp_path / "root"


def test_ucf_videos_and_features_give_the_same_rows(places):
    annotations, root = places
    _write(annotations, UCF_LISTS)
    _touch(root / "part1" / "Arson" / "Arson011_x264.mp4", root / "f" / "Arson011_x264__5.npy")
    videos = load_dataset(_official("ucf_crime", root, annotations, "videos")).videos
    features = load_dataset(_official("ucf_crime", root, annotations)).videos
    assert [v.uri for v in videos] == [
        "Abuse/Abuse001_x264.mp4",  # missing: named as in the list
        "Training_Normal_Videos_Anomaly/Normal_Videos001_x264.mp4",
        "part1/Arson/Arson011_x264.mp4",
        "Testing_Normal_Videos_Anomaly/Normal_Videos_003_x264.mp4",
    ]
    assert features[2].uri == "f/Arson011_x264"
    for video, feature in zip(videos, features, strict=True):
        assert video.video_id == feature.video_id
        assert (video.labels, video.split, video.segments) == (
            feature.labels,
            feature.split,
            feature.segments,
        )
    assert videos[2].segments == (Segment(150, 420, "Arson"), Segment(680, 1267, "Arson"))
    assert [v.labels for v in videos] == [("Abuse",), ("Normal",), ("Arson",), ("Normal",)]


def test_xd_truths_differ_and_overlaps_are_kept(places):
    annotations, root = places
    _write(annotations, XD_LISTS)
    _touch(root / "v=@7__#1_label_B6-0-0.mp4")
    raw = load_dataset(_official("xd_violence", root, annotations, "videos"))
    test = next(video for video in raw.videos if video.video_id == "v=@7__#1_label_B6-0-0")
    assert test.spans == ((5, 50), (40, 90))
    assert test.segments == (Segment(5, 50, "B6"), Segment(40, 90, "G"))
    assert {video.video_id: video.source_id for video in raw.videos} == {
        "A.b.2001__#1-2_label_A": "A.b.2001", "v=9__#1_label_B1-B2-0": "v=9",
        "v=@7__#1_label_B6-0-0": "v=@7", "C.d__#3_label_A": "C.d",
    }  # fmt: skip
    assert raw.videos[1].labels == ("B1", "B2")


def test_of_several_files_of_one_name_the_one_in_the_listed_folder_is_taken(places):
    annotations, root = places
    _write(annotations, UCF_LISTS)
    name = "Normal_Videos_003_x264.mp4"
    _touch(root / "Testing_Normal_Videos_Anomaly" / name, root / "Normal_Videos_event" / name)
    params = _official("ucf_crime", root, annotations, "videos")
    assert load_dataset(params).videos[3].uri == f"Testing_Normal_Videos_Anomaly/{name}"
    _touch(root / "copy" / "Testing_Normal_Videos_Anomaly" / name)
    with pytest.raises(
        InputError, match=r"Testing_Normal_Videos_Anomaly/\S+ and copy/\S+ both fit .*remove or rename one"
    ):
        load_dataset(params)
    shutil.rmtree(root / "copy")
    _touch(root / os.fsdecode(b"caf\xe9") / "Arson011_x264.mp4")
    with pytest.raises(InputError, match=r"caf\\udce9/Arson011_x264 has a name that is not UTF-8; remove or"):
        load_dataset(params)


def test_linked_folders_are_followed_once(places):
    annotations, root = places
    _write(annotations, UCF_LISTS)
    disk = root.parent / "disk"
    _touch(disk / "Arson011_x264.mp4")
    (disk / "loop").symlink_to(root)
    (root / "b").symlink_to(disk)
    (root / "c").symlink_to(disk)
    raw = load_dataset(_official("ucf_crime", root, annotations, "videos"))
    assert raw.videos[2].uri == "b/Arson011_x264.mp4"


UCF_TRUTH, UCF_TRAIN = "Temporal_Anomaly_Annotation.txt", "ucf_CLIP_rgb.csv"
XD_TRUTH, XD_CLASSES = "annotations.txt", "annotations_multiclasses.txt"
BROKEN_LISTS = [
    (UCF_TRUTH, "Arson011_x264", "Arson012_x264", r"Arson011_x264 has no line"),
    (UCF_TRUTH, "Normal_Videos_003_x264", "Arson011_x264", r"Arson011_x264.mp4 is annotated twice"),
    (
        UCF_TRUTH,
        "Normal_Videos_003_x264.mp4  Normal  -1  -1  -1  -1",
        "",
        r"Normal_Videos_003_x264 has no line",
    ),
    (UCF_TRUTH, "Arson  150", "Abuse  150", r"annotated as Abuse but listed as Arson"),
    (UCF_TRUTH, "150  420", "420  150", r"line 2 .*420 150 is no span: expected 0 <= start < end"),
    (UCF_TRUTH, "1267", "", r"line 2 .*expected a name, a class and four frame numbers"),
    (UCF_TRUTH, "Normal  -1  -1", "Normal  3  9", r"line 3 .*a video of class Normal with 1 spans"),
    (UCF_TRAIN, "Abuse001_x264__1.npy,Abuse", "Abuse001_x264__1.npy,Arson", r"Abuse001_x264 is listed twice"),
    (UCF_TRAIN, "Abuse001_x264__1.npy", "Abuse001_x264.npy", r"line 3 .*ends in __<crop>.npy"),
    (UCF_TRAIN, "Normal_Videos001", "Normal_Videos_003", r"listed twice: train, .*test, "),
    (UCF_TRAIN, ",Normal", ",Calm", r"unknown label 'Calm'; the classes are Normal, Abuse"),
    ("xd_CLIP_rgb.csv", ",B1-B2-0", ",B1-0-0", r"is listed with label B1-0-0; the name must end in"),
    (XD_TRUTH, "v=@7", "v=@8", r"must have one line for each anomalous .*: v=@7__#1_label_B6-0-0$"),
    (XD_TRUTH, "40 90", "40", r"line 1 .*expected a name and pairs of frame numbers"),
    (XD_TRUTH, "40 90", "40 x", r"line 1 .*invalid literal"),
    (XD_CLASSES, "G 40", "B3 40", r"line 1 .*B3 is none of B1, B2"),
    (XD_CLASSES, "90", "90 G", r"line 1 .*expected a name and triples of label, start, end"),
    (
        XD_CLASSES,
        "v=@7__#1_label_B6-0-0 B6 5 50 G 40 90",
        "",
        r"must have one line for each anomalous test video",
    ),
]


@pytest.mark.parametrize(("file", "old", "new", "message"), BROKEN_LISTS)
def test_label_files_that_do_not_fit(file, old, new, message, places):
    annotations, root = places
    _write(annotations, UCF_LISTS | XD_LISTS)
    assert old in (annotations / file).read_text()
    (annotations / file).write_text((annotations / file).read_text().replace(old, new))
    _touch(root / "Arson011_x264__5.npy", root / "v=@7__#1_label_B6-0-0__0.npy")
    name = "ucf_crime" if file in (UCF_TRUTH, UCF_TRAIN) else "xd_violence"
    with pytest.raises(InputError, match=message):
        load_dataset(_official(name, root, annotations))


def test_a_wrong_root_and_wrong_annotations(places):
    annotations, root = places
    with pytest.raises(InputError, match=r"ucf_CLIP_rgb.csv: no such file; dataset.annotations must be"):
        load_dataset(_official("ucf_crime", root, annotations))
    _write(annotations, UCF_LISTS)
    with pytest.raises(
        InputError, match=r"none of the 4 listed features \(<name>__<crop>.npy\) is beneath it"
    ):
        load_dataset(_official("ucf_crime", root, annotations))
    with pytest.raises(InputError, match=r"dataset\.root .*gone: no such folder"):
        load_dataset(_official("ucf_crime", root / "gone", annotations))


def test_classes_may_be_reworded_but_not_changed(places):
    annotations, root = places
    _write(annotations, XD_LISTS)
    _touch(root / "v=@7__#1_label_B6-0-0__0.npy")
    params = _official("xd_violence", root, annotations)
    own = {
        label: f"a scene of {prompt}"
        for label, prompt in zip(XD_VIOLENCE.labels, XD_VIOLENCE.prompts, strict=True)
    }
    assert (
        load_dataset(params.model_copy(update={"classes": own})).classes.prompts[1] == "a scene of fighting"
    )
    with pytest.raises(
        InputError, match=r"it must have A first and then, in any order, B1, B2, B4, B5, B6, G"
    ):
        load_dataset(params.model_copy(update={"classes": {"A": "normal", "B1": "fighting"}}))


def test_lists_cut_to_some_videos_and_written_by_a_spreadsheet(places):
    annotations, root = places
    _write(annotations, UCF_LISTS | XD_LISTS)
    truth = annotations / UCF_TRUTH
    truth.write_text(truth.read_text() + "Abuse028_x264.mp4  Abuse  165  240  -1  -1\n")
    (annotations / UCF_TRAIN).write_text("\ufeff" + (annotations / UCF_TRAIN).read_text())
    _touch(root / "Arson011_x264__5.npy")
    raw = load_dataset(_official("ucf_crime", root, annotations))
    assert len(raw.videos) == 4
    assert raw.notes == (f"{UCF_TRUTH}: 1 lines of no test video, such as Abuse028_x264.mp4, are not used",)
    (root / "Arson011_x264__5.npy").rename(root / "Arson011_x264.npz")
    with pytest.raises(InputError, match=r"of one file a video, an \.npz or an array \[rows, 10, width\], "):
        load_dataset(_official("ucf_crime", root, annotations))
