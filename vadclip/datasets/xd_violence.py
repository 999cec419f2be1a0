"""XD-Violence: 3,954 training and 800 test videos, 6 anomalies, several at once, as videos or CLIP features.

`dataset.annotations` holds xd_CLIP_rgb.csv / xd_CLIP_rgbtest.csv (the split, for videos too), annotations.txt
(frame truth) and annotations_multiclasses.txt (mAP truth; its overlaps are kept). Labels stand in the names
(`..._label_G-B2-B6`); the text before `__#` names the film a clip is cut from. Files are found by name
anywhere beneath the root.
"""

from vadclip.config import DatasetParams
from vadclip.datasets.official_lists import (
    Listed,
    by_test_name,
    locate_listed,
    own_classes,
    parse_file,
    parse_span,
    read_crop_list,
    unique,
)
from vadclip.datasets.raw import RawDataset, RawVideo
from vadclip.errors import InputError
from vadclip.labels import XD_VIOLENCE, xd_labels
from vadclip.manifest import Segment

FRAME_TRUTH_FILE = "annotations.txt"
SEGMENT_TRUTH_FILE = "annotations_multiclasses.txt"


def load(params: DatasetParams) -> RawDataset:
    """Read the official lists and annotations; raises InputError naming every line that does not fit."""
    listings = read_crop_list(params, "xd_CLIP_rgb.csv", "train")
    listings += read_crop_list(params, "xd_CLIP_rgbtest.csv", "test")
    videos = unique(listings)
    labels = {name: _labels(video) for name, video in videos.items()}
    tests = {name for name, video in videos.items() if video.split == "test"}
    spans, notes = by_test_name(FRAME_TRUTH_FILE, parse_file(params, FRAME_TRUTH_FILE, _parse_spans), tests)
    segments, more_notes = by_test_name(
        SEGMENT_TRUTH_FILE, parse_file(params, SEGMENT_TRUTH_FILE, _parse_segments), tests
    )
    anomalous = {name for name in tests if labels[name] != (XD_VIOLENCE.normal,)}
    for file_name, annotated in ((FRAME_TRUTH_FILE, set(spans)), (SEGMENT_TRUTH_FILE, set(segments))):
        if annotated != anomalous:
            raise InputError(
                f"{file_name} must have one line for each anomalous test video; too few or too many: "
                f"{', '.join(sorted(annotated ^ anomalous))}"
            )
    uris = locate_listed(params, [(video, name) for name, video in videos.items()])
    return RawDataset(
        name=params.name,
        classes=own_classes(params, XD_VIOLENCE),
        videos=tuple(
            RawVideo(
                uri=uri,
                labels=labels[name],
                split=video.split,
                segments=segments.get(name, ()),
                video_id=name,
                source_id=name.split("__#")[0],
                spans=spans.get(name, ()),
                origin=f"{SEGMENT_TRUTH_FILE} ({name})",
            )
            for (name, video), uri in zip(videos.items(), uris, strict=True)
        ),
        notes=(*notes, *more_notes),
        may_overrun=True,
    )


def _labels(video: Listed) -> tuple[str, ...]:
    _, found, code = video.name.rpartition("_label_")
    if not found or code != video.label:
        raise InputError(
            f"{video.name} is listed with label {video.label}; the name must end in _label_{video.label}"
        )
    return xd_labels(code)


def _parse_spans(line: str) -> tuple[str, tuple[tuple[int, int], ...]]:
    """Parse `<name> <start> <end> [<start> <end>]...`."""
    name, *numbers = line.split()
    if not numbers or len(numbers) % 2:
        raise ValueError("expected a name and pairs of frame numbers")
    pairs = zip(numbers[::2], numbers[1::2], strict=True)
    return name, tuple(parse_span(start, end) for start, end in pairs)


def _parse_segments(line: str) -> tuple[str, tuple[Segment, ...]]:
    """Parse `<name> <label> <start> <end> [<label> <start> <end>]...`.

    A segment's label need not be one of the video's: Ip.Man.2008__#01-40-37_01-42-07 is B4 by name, B1 here.
    """
    name, *words = line.split()
    if not words or len(words) % 3:
        raise ValueError("expected a name and triples of label, start, end")
    segments = []
    for label, start, end in zip(words[::3], words[1::3], words[2::3], strict=True):
        if label not in XD_VIOLENCE.labels[1:]:
            raise ValueError(f"{label} is none of {', '.join(XD_VIOLENCE.labels[1:])}")
        segments.append(Segment(*parse_span(start, end), label))
    return name, tuple(segments)
