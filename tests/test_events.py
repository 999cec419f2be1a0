"""Events and thresholds, worked by hand."""

import numpy as np
import pytest

from vadclip.errors import InputError
from vadclip.events import Event, Peak, find_events, runs_above, threshold_from_peaks


def peaks(*values, hours=0.5):
    return [Peak(f"v{number}", value, hours) for number, value in enumerate(values)]


@pytest.mark.parametrize(
    ("scores", "runs"),
    [
        ([], []),
        ([0.5, 0.2], []),  # strictly above
        ([0.6], [(0, 1)]),
        ([0.6, 0.1, 0.6], [(0, 3)]),  # a gap of one is closed
        ([0.6, 0.1, 0.1, 0.6], [(0, 1), (3, 4)]),  # one of two is not
        ([0.1, 0.9, 0.9, 0.5, 0.9, 0.1, 0.1, 0.1, 0.7], [(1, 5), (8, 9)]),
    ],
)
def test_runs(scores, runs):
    assert runs_above(scores, 0.5) == runs


def test_an_event_has_the_class_that_is_most_probable_over_it():
    score_N = np.array([0.1, 0.8, 0.4, 0.6, 0.0], np.float32)
    # Over snippets 1 to 3 the means are 0.4 normal, 0.2, 0.4; normal never names an event.
    probability_NK = np.array(
        [[1, 0, 0], [0.8, 0.2, 0.0], [0.4, 0.2, 0.4], [0.0, 0.2, 0.8], [1, 0, 0]], np.float32
    )
    [event] = find_events(score_N, probability_NK, 0.5)
    assert (event.start, event.stop, event.class_index) == (1, 4, 2)
    assert [event.peak, event.mean, event.class_probability] == pytest.approx([0.8, 0.6, 0.4])
    assert find_events(score_N, None, 0.5)[0] == Event(1, 4, event.peak, event.mean, None, None)


def test_a_threshold_lies_midway_between_two_peaks():
    forty = peaks(*np.arange(40) / 100)
    threshold = threshold_from_peaks(forty, selection="last")
    # 5 % of 40 are 2, those at 0.39 and 0.38: midway between 0.38 and 0.37.
    assert threshold.value == pytest.approx(0.375)
    assert (threshold.flagged, threshold.videos, threshold.hours) == (2, 40, 20.0)
    assert threshold.alarms_per_hour == pytest.approx(0.1)
    # Of a Poisson count of 2 the exact 95 % interval is 0.2422 to 7.2247 (Garwood's table).
    assert threshold.alarms_interval == pytest.approx((0.2422 / 20, 7.2247 / 20), abs=1e-4)
    assert threshold.weak_because == ()
    third = threshold_from_peaks(peaks(0.9, 0.5, 0.2), selection="validation", max_flagged=1 / 3)
    assert (third.value, third.flagged) == (pytest.approx(0.7), 1)
    assert third.weak_because == (
        "there are only 3 normal validation videos",
        "the model's epoch was picked on the same videos",
    )


def test_where_no_video_may_be_flagged_none_is():
    threshold = threshold_from_peaks(peaks(0.3, 0.6, 0.1, hours=None), selection="last")
    assert (threshold.value, threshold.flagged) == (0.6, 0)
    assert (threshold.hours, threshold.alarms_per_hour, threshold.alarms_interval) == (None, None, None)
    equal = threshold_from_peaks(peaks(0.4, 0.4, 0.4, 0.1), selection="last", max_flagged=0.5)
    assert (equal.value, equal.flagged) == (0.4, 0)
    none = threshold_from_peaks(peaks(0.3), selection="last")
    # Three in the hours that went by without one (the rule of three is 2.996; two-sided it is 3.689).
    assert none.alarms_interval == pytest.approx((0.0, 3.6889 / 0.5), abs=1e-3)


def test_without_peaks_it_must_be_given():
    with pytest.raises(InputError, match=r"picked by 'official'.*give one with --threshold"):
        threshold_from_peaks([], selection="official")
    with pytest.raises(InputError, match="is 1: give one from 0 to below 1"):
        threshold_from_peaks(peaks(0.5), selection="last", max_flagged=1.0)
