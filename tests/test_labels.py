import numpy as np
import pytest

from vadclip.errors import InputError
from vadclip.labels import UCF_CRIME, XD_VIOLENCE, Classes, classes_from, xd_labels


def test_official_vocabularies_have_the_order_and_words_of_the_official_code():
    assert len(UCF_CRIME) == 14
    assert UCF_CRIME.normal == "Normal"
    assert UCF_CRIME.prompts[8] == "roadAccidents"
    assert [label.lower() for label in UCF_CRIME.labels] == [prompt.lower() for prompt in UCF_CRIME.prompts]
    assert dict(zip(XD_VIOLENCE.labels, XD_VIOLENCE.prompts, strict=True)) == {
        "A": "normal", "B1": "fighting", "B2": "shooting", "B4": "riot", "B5": "abuse", "B6": "car accident",
        "G": "explosion",
    }  # fmt: skip


def test_multi_hot_marks_each_label():
    target = XD_VIOLENCE.multi_hot(("G", "B2"))
    assert target.dtype == np.float32
    assert target.tolist() == [0, 0, 1, 0, 0, 0, 1]
    with pytest.raises(InputError, match=r"unknown label 'B3'; the classes are A, B1, B2"):
        XD_VIOLENCE.multi_hot(["B3"])


@pytest.mark.parametrize(
    ("code", "labels"),
    [
        ("A", ("A",)),
        ("B2-0-0", ("B2",)),
        ("G-B2-B6", ("G", "B2", "B6")),
        ("B1", ("B1",)),
        ("B1-0-G", ("B1", "G")),
    ],
)
def test_xd_codes(code, labels):
    assert xd_labels(code) == labels


@pytest.mark.parametrize("code", ["", "0-0-0", "B3-0-0", "B2-B2-0", "b2", "B2_G"])
def test_xd_codes_that_are_none(code):
    with pytest.raises(InputError, match=r"expected A, or up to three different codes"):
        xd_labels(code)


def test_xd_normal_stands_alone():
    with pytest.raises(InputError, match=r"'A-B2-0': A \(normal\) stands together"):
        xd_labels("A-B2-0")


def test_classes_of_a_table_put_normal_first_and_sort_the_rest():
    assert classes_from(["theft", "normal", "car_crash", "theft"], None) == Classes(
        labels=("normal", "car_crash", "theft"), prompts=("normal", "car crash", "theft")
    )


def test_a_mapping_decides_order_and_prompts():
    classes = classes_from(["x"], {"ok": "a quiet street", "fire": "a burning car"})
    assert classes == Classes(labels=("ok", "fire"), prompts=("a quiet street", "a burning car"))


def test_classes_that_cannot_work():
    with pytest.raises(
        InputError, match=r"none of the labels calm, fire is Normal or normal: call .* that, or name"
    ):
        classes_from(["fire", "calm"], None)
    with pytest.raises(InputError, match=r"at least one anomaly are needed"):
        classes_from(["Normal"], None)
    with pytest.raises(InputError, match=r"the label 'normal' stands for two classes"):
        classes_from(["Normal", "normal", "fire"], None)
    with pytest.raises(InputError, match=r"the prompt 'a fire' stands for two classes"):
        classes_from([], {"ok": "ok", "fire": "a fire", "arson": "A fire"})
    with pytest.raises(InputError, match=r"a prompt is empty"):
        classes_from([], {"ok": "ok", "fire": " "})
    with pytest.raises(InputError, match=r"'a\|b' holds '\|', which separates labels"):
        classes_from([], {"ok": "ok", "a|b": "fire"})
