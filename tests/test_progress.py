"""Progress lines where there is no terminal: done, rate and ETA, and none of it for short work."""

import pytest

from vadclip import progress
from vadclip.progress import format_seconds, track


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: False, raising=False)
    return now


def test_a_line_every_ten_seconds_with_rate_and_eta(clock, capsys):
    with track(1000, "extract", "images") as bar:
        clock[0] = 5.0
        bar.advance(100)
        clock[0] = 10.0
        bar.advance(100)  # 200 in 10 s: 20/s, 800 left: 40 s
        clock[0] = 50.0
        bar.advance(800)
    assert capsys.readouterr().err.splitlines() == [
        "extract: 200 of 1,000 images, 20.0/s, ETA 40 s",
        "extract: 1,000 of 1,000 images, 20.0/s, ETA 0 s",
        "extract: 1,000 images in 50 s (20.0/s)",
    ]


def test_while_nothing_is_done_no_rate_is_made_up(clock, capsys):
    with track(10, "extract", "images") as bar:
        clock[0] = 10.0
        bar.advance(0)
    assert "extract: 0 of 10 images\n" in capsys.readouterr().err


def test_short_work_is_silent(clock, capsys):
    with track(10, "score", "snippets") as bar:
        bar.advance(10)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (59.4, "59 s"), (185, "3 min 05 s"), (7620, "2 h 07 min")]
)
def test_durations_as_people_read_them(seconds, text):
    assert format_seconds(seconds) == text
