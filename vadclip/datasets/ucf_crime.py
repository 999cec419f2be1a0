"""UCF-Crime: 1,610 training and 290 test videos, 13 anomalies, as videos or as the authors' CLIP features.

`dataset.annotations` holds the label files: Temporal_Anomaly_Annotation.txt, and Anomaly_Train.txt /
Anomaly_Test.txt (videos) or ucf_CLIP_rgb.csv / ucf_CLIP_rgbtest.csv (features). Files are found by name
anywhere beneath the root. Frame truth and mAP truth are the same spans here (vadclip.md section 4).
"""

from vadclip.config import DatasetParams
from vadclip.datasets.official_lists import (
    Listed,
    by_test_name,
    listed,
    locate_listed,
    own_classes,
    parse_file,
    parse_span,
    read_crop_list,
    unique,
)
from vadclip.datasets.raw import RawDataset, RawVideo
from vadclip.errors import InputError
from vadclip.labels import UCF_CRIME
from vadclip.manifest import Segment

TRUTH_FILE = "Temporal_Anomaly_Annotation.txt"


def load(params: DatasetParams) -> RawDataset:
    """Read the official lists and annotations; raises InputError naming every line that does not fit."""
    if params.source == "videos":
        listings = _read_video_list(params, "Anomaly_Train.txt", "train")
        listings += _read_video_list(params, "Anomaly_Test.txt", "test")
    else:
        listings = read_crop_list(params, "ucf_CLIP_rgb.csv", "train")
        listings += read_crop_list(params, "ucf_CLIP_rgbtest.csv", "test")
    videos = unique(listings)
    classes = own_classes(params, UCF_CRIME)
    for video in videos.values():
        classes.index(video.label)
    tests = {name: video for name, video in videos.items() if video.split == "test"}
    truth, notes = by_test_name(TRUTH_FILE, parse_file(params, TRUTH_FILE, _parse_truth), tests)
    _check_truth(tests, truth)
    # A video that is missing is named as the lists have it: <class folder>/<name>.
    uris = locate_listed(params, [(video, "/".join(video.path.split("/")[-2:])) for video in videos.values()])
    return RawDataset(
        name=params.name,
        classes=classes,
        videos=tuple(
            RawVideo(
                uri=uri,
                labels=(video.label,),
                split=video.split,
                segments=truth.get(name, ()),
                video_id=name,
                source_id=name,
                origin=f"{TRUTH_FILE} ({name})",
            )
            for (name, video), uri in zip(videos.items(), uris, strict=True)
        ),
        notes=notes,
        may_overrun=True,  # five annotations end one or two frames behind the video
    )


def _read_video_list(params: DatasetParams, name: str, split: str) -> list[Listed]:
    def parse(line: str) -> Listed:
        folder, _, file_name = line.rpartition("/")
        if not folder or not file_name.endswith(".mp4"):
            raise ValueError("expected <class>/<name>.mp4")
        folder_class = folder.rsplit("/", 1)[-1]
        # Training_Normal_Videos_Anomaly and Testing_Normal_Videos_Anomaly
        label = UCF_CRIME.normal if "Normal" in folder_class else folder_class
        return listed(line.removesuffix(".mp4"), split, label)

    return parse_file(params, name, parse)


def _parse_truth(line: str) -> tuple[str, tuple[Segment, ...]]:
    """Parse `<name> <class> <start> <end> <start> <end>`, where -1 -1 fills an unused span."""
    name, label, *numbers = line.split()
    if len(numbers) != 4:
        raise ValueError("expected a name, a class and four frame numbers")
    pairs = [pair for pair in (numbers[:2], numbers[2:]) if pair != ["-1", "-1"]]
    spans = [parse_span(start, end) for start, end in pairs]
    if (label == UCF_CRIME.normal) != (not spans):
        raise ValueError(f"a video of class {label} with {len(spans)} spans")
    return name, tuple(Segment(start, end, label) for start, end in spans)


def _check_truth(tests: dict[str, Listed], truth: dict[str, tuple[Segment, ...]]) -> None:
    problems = [f"{name} has no line" for name in tests if name not in truth]
    problems += [
        f"{name} is annotated as {segment.label} but listed as {tests[name].label}"
        for name, segments in truth.items()
        for segment in segments[:1]
        if segment.label != tests[name].label
    ]
    if problems:
        raise InputError(f"{TRUTH_FILE}: {'; '.join(problems)}")
