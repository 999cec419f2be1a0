"""Tables as read, before any video is opened."""

import re

import pytest
from params_helpers import dataset_params

from vadclip.datasets import load_dataset
from vadclip.datasets.table import video_ids
from vadclip.errors import InputError
from vadclip.manifest import Segment


def _table(folder, text, **changes):
    path = folder / "videos.csv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return dataset_params("table", **{"table": str(path), **changes})


def _rows(folder, text, **changes):
    return load_dataset(_table(folder, text, **changes))


def test_a_table_with_everything(tmp_path):
    raw = _rows(
        tmp_path,
        "\ufeffpath, label, split, segments, group\r\n"
        'gate/mon.day.mp4,Normal,train,,gate\r\n"yard, north/tue.mp4",Fighting|Shooting,test,'
        "240-410:Fighting; 300-380 : Shooting,\r\n\r\ns3://b/c/x.mkv,Fighting,val,5-9,gate\r\n",
    )
    assert not raw.problems
    assert raw.classes.labels == ("Normal", "Fighting", "Shooting")
    monday, tuesday, remote = raw.videos
    assert (monday.uri, monday.video_id, monday.source_id) == ("gate/mon.day.mp4", "gate__mon.day", "gate")
    assert tuesday.uri == "yard, north/tue.mp4"
    assert (tuesday.video_id, tuesday.source_id) == ("yard, north__tue", "yard, north__tue")
    assert tuesday.labels == ("Fighting", "Shooting")
    assert tuesday.segments == (Segment(240, 410, "Fighting"), Segment(300, 380, "Shooting"))
    assert (remote.video_id, remote.split, remote.source_id) == ("b__c__x", "val", "gate")
    assert remote.segments == (Segment(5, 9, "Fighting"),)
    assert raw.notes == (
        "label 'Normal' occurs once: row 2 (gate/mon.day.mp4)",
        "label 'Shooting' occurs once: row 3 (yard, north/tue.mp4)",
        f"{tmp_path / 'videos.csv'}: segments of 1 train and val videos are not used",
    )


def test_without_a_split_column_every_video_is_train(tmp_path):
    assert [v.split for v in _rows(tmp_path, "path,label\na.mp4,Normal\nb.mp4,Fire\n").videos] == [
        "train"
    ] * 2


def test_paths_are_relative_to_the_root_where_they_lie_beneath_it(tmp_path):
    paths = [f"{tmp_path}/a/x.mp4", "./a//y.mp4", "/elsewhere/z.mp4", "a/../w.mp4"]
    raw = _rows(tmp_path, "\n".join(["path,label", f"{paths[0]},Normal", *(f"{p},Fire" for p in paths[1:])]))
    assert not raw.problems
    assert [video.uri for video in raw.videos] == ["a/x.mp4", "a/y.mp4", "/elsewhere/z.mp4", "w.mp4"]
    assert [video.video_id for video in raw.videos] == ["a__x", "a__y", "elsewhere__z", "w"]


def test_ids_are_unique_and_depend_on_nothing_but_the_paths():
    uris = [
        "a/b.mp4",
        "a__b.mp4",
        "A/B.mp4",
        "c.mp4",
        "c.avi",
        "d.e.mp4",
        "ü ber#=@.mp4",
        "x" * 300 + ".mp4",
        ".",
    ]
    ids = video_ids(iter(uris))
    assert len({name.casefold() for name in ids.values()}) == len(uris)
    assert (ids["d.e.mp4"], ids["ü ber#=@.mp4"]) == ("d.e", "ü ber#=@")
    assert ids["a/b.mp4"].startswith("a__b~")
    assert ids == video_ids(reversed(uris))
    assert all(
        len(name.encode()) <= 200 and "/" not in name and name not in {".", ".."} for name in ids.values()
    )


BAD_ROWS = {
    "a.mp4,Fire,train": None,
    "./a.mp4,Fire,train": r"row 3 \(\./a\.mp4\): the same video \(duplicate id\) as row 2",
    "../b.mp4,Fire,train": r"row 4 .*: the path leaves the root",
    "c/../../b.mp4,Fire,train": r"row 5 .*: the path leaves the root",
    "d.mp4,Flood,train": r"row 6 .*: unknown label 'Flood' \(dataset.classes has Normal, Fire, Theft\)",
    "e.mp4,Normal|Fire,train": r"row 7 .*: Normal \(normal\) together with another label",
    "f.mp4,Fire,test,9-9": r"row 8 .*: segment '9-9' is empty or reversed",
    "g.mp4,Fire,test,30-12": r"row 9 .*: segment '30-12' is empty or reversed",
    "h.mp4,Fire,test,-4-12": r"row 10 .*: segment '-4-12' is not start-end or start-end:label, in frames",
    "i.mp4,Fire,test,0.5-12": r"row 11 .*: segment '0.5-12' is not start-end",
    "j.mp4,Fire,test,1-12:Theft": r"row 12 .*: segment '1-12:Theft' shows a label that the video does not",
    "k.mp4,Fire|Theft,test,1-12": r"row 13 .*: segment '1-12' must say which of the labels",
    "l.mp4,Normal,test,1-12": r"row 14 .*: segments on a Normal \(normal\) video",
    "m.mp4,Fire,dev": r"row 15 .*: split 'dev' is none of train, val, test",
    "n.mp4,,train": r"row 16 .*: the label is empty",
    "o.mp4,Fire||Theft,train": r"row 17 .*: a label is empty in 'Fire\|\|Theft'",
    "p.mp4,Fire|Fire,train": r"row 18 .*: a label stands twice",
    ",Fire,train": r"row 19 \(\): the path is empty or has control characters",
    "q.mp4": r"row 20 .*: not as many cells as the first line names",
    "r.mp4,Fire,train,,more": r"row 21 .*: not as many cells as the first line names",
}


def test_every_bad_row_is_named(tmp_path):
    lines = [row if row.count(",") > 2 or row == "q.mp4" else f"{row}," for row in BAD_ROWS]
    classes = {"Normal": "normal", "Fire": "fire", "Theft": "theft"}
    raw = _rows(tmp_path, "\n".join(["path,label,split,segments", *lines]), classes=classes)
    said = [f"{origin}: {wrong}" for origin, wrong in raw.problems.items()]
    expected = [pattern for pattern in BAD_ROWS.values() if pattern]
    assert len(said) == len(expected)
    for line, pattern in zip(said, expected, strict=True):
        assert re.search(pattern, line), line


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "path:label\na:b\n",
            r"the first line is 'path:label'; expected the columns path,label and optionally",
        ),
        ("path,label,segment\n", r"the first line is 'path,label,segment'"),
        ("path,label,path\n", r"the first line is 'path,label,path'"),
        ("", r"the first line is ''"),
        ("path,label\n", r"the table has no rows"),
        (b"path,label\nM\xe4rz.mp4,Fire\n", r"byte 12 is not UTF-8; save it as UTF-8"),
        ('path,label\n"a.mp4,Fire\n', r"line 2: no CSV"),
        ("path,label\na.mp4,Calm\n", r"none of the labels Calm is Normal or normal"),
    ],
)
def test_a_table_that_is_none(tmp_path, content, message):
    with pytest.raises(InputError, match=message):
        _rows(tmp_path, content)


def test_a_missing_table_and_a_missing_root(tmp_path):
    with pytest.raises(InputError, match=r"dataset\.table .*no\.csv: no such file"):
        load_dataset(_table(tmp_path, "", table=str(tmp_path / "no.csv")))
    with pytest.raises(InputError, match=r"dataset\.root .*nowhere: no such folder"):
        _rows(tmp_path, "path,label\na.mp4,Normal\nb.mp4,Fire\n", root=str(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    "text",
    [
        "\ufeffpath;label;split;segments\r\na.mp4;Fire;test;\r\nsub/b.mp4;Normal;train;\r\n",
        'sep=;\r\npath;label;split;segments\r\na.mp4;Fire;test;"5-9;20-30"\r\nsub/b.mp4;Normal;train;\r\n',
        "path\tlabel\tsplit\na.mp4\tFire\ttest\nsub/b.mp4\tNormal\ttrain\n",
        "Path,Label,SPLIT\na.mp4,Fire,test\nsub/b.mp4,Normal,train\n",
        "path,label,split,,,\na.mp4,Fire,test,,,\nsub/b.mp4,Normal,train,,,\n",
        "path,label,split\na.mp4 ,Fire,test\n  sub/b.mp4,Normal,train\n",
        "path,label,split\na.mp4,Fire,test\nsub\\b.mp4 ,Normal,train\n",
    ],
)
def test_tables_as_spreadsheets_write_them_are_taken_as_meant(text, tmp_path):
    (tmp_path / "sub").mkdir()
    for name in ("a.mp4", "sub/b.mp4"):
        (tmp_path / name).touch()
    raw = _rows(tmp_path, text)
    assert not raw.problems
    assert [(v.uri, v.video_id, v.labels, v.split) for v in raw.videos] == [
        ("a.mp4", "a", ("Fire",), "test"),
        ("sub/b.mp4", "sub__b", ("Normal",), "train"),
    ]
    assert raw.videos[0].segments == (
        (Segment(5, 9, "Fire"), Segment(20, 30, "Fire")) if "5-9" in text else ()
    )


def test_a_name_that_exists_as_it_stands_is_taken_as_it_stands(tmp_path):
    for name in ("a.mp4 ", "a.mp4", "x\\y.mp4"):
        (tmp_path / name).touch()
    raw = _rows(tmp_path, "path,label\na.mp4 ,Normal\na.mp4,Normal\nx\\y.mp4,Fire\n")
    assert [video.uri for video in raw.videos] == ["a.mp4 ", "a.mp4", "x\\y.mp4"]


def test_labels_that_look_like_mistakes_are_named_with_their_rows(tmp_path):
    rows = ["a,Normal,train", "b,Normal,train", "c,Fighting,train", "d,Fighting,test", "e,Fihgting,train"]
    rows += ["f,Arson,test", "g,Arson,test", "h,Abuse,train"]
    assert _rows(tmp_path, "\n".join(["path,label,split", *rows])).notes == (
        "label 'Fihgting' is one edit away from 'Fighting': is it meant? row 6 (e)",
        "label 'Arson' occurs in test only, so no training video shows it: row 7 (f), row 8 (g)",
        "label 'Abuse' occurs once: row 9 (h)",
    )
