"""Class vocabularies: labels as they stand in the files, and the words the text tower reads for them.

Legend of shape suffixes: K classes, index 0 is normal.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vadclip.errors import InputError

NORMAL_LABELS = ("Normal", "normal")
LABEL_SEPARATOR = "|"


@dataclass(frozen=True)
class Classes:
    """The K classes of a dataset, normal first: `labels` as in the files, `prompts` for the text tower.

    >>> classes = Classes(("Normal", "RoadAccident"), ("normal", "a car accident"))
    >>> classes.normal, classes.index("RoadAccident"), len(classes)
    ('Normal', 1, 2)
    """

    labels: tuple[str, ...]
    prompts: tuple[str, ...]

    def __post_init__(self) -> None:
        assert len(self.labels) == len(self.prompts)
        if len(self.labels) < 2:
            raise InputError(
                f"classes {list(self.labels)}: normal and at least one anomaly are needed; name all of them "
                "in dataset.classes (label: prompt, normal first) or add videos of an anomaly"
            )
        for what, words in (("label", self.labels), ("prompt", self.prompts)):
            if any(not word.strip() for word in words):
                raise InputError(f"classes {list(self.labels)}: a {what} is empty")
            twice = [word for word, count in Counter(word.lower() for word in words).items() if count > 1]
            if twice:
                raise InputError(
                    f"classes {list(self.labels)}: the {what} {twice[0]!r} stands for two classes (letter "
                    "case does not count), which cannot be told apart; rename one"
                )
        divided = [label for label in self.labels if LABEL_SEPARATOR in label]
        if divided:
            raise InputError(f"class label {divided[0]!r} holds {LABEL_SEPARATOR!r}, which separates labels")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def normal(self) -> str:
        """Label of the normal class."""
        return self.labels[0]

    def index(self, label: str) -> int:
        """Position of `label`; raises InputError for an unknown one."""
        try:
            return self.labels.index(label)
        except ValueError:
            raise InputError(f"unknown label {label!r}; the classes are {', '.join(self.labels)}") from None

    def multi_hot(self, labels: Iterable[str]) -> npt.NDArray[np.float32]:
        """Return target_K, 1 where a class occurs; raises InputError for an unknown label."""
        target_K = np.zeros(len(self), dtype=np.float32)
        for label in labels:
            target_K[self.index(label)] = 1.0
        return target_K


# Labels as the UCF-Crime lists spell them, prompts as the official code spells them (vadclip.md section 4).
UCF_CRIME = Classes(
    labels=(
        "Normal", "Abuse", "Arrest", "Arson", "Assault", "Burglary", "Explosion", "Fighting", "RoadAccidents",
        "Robbery", "Shooting", "Shoplifting", "Stealing", "Vandalism",
    ),
    prompts=(
        "normal", "abuse", "arrest", "arson", "assault", "burglary", "explosion", "fighting", "roadAccidents",
        "robbery", "shooting", "shoplifting", "stealing", "vandalism",
    ),
)  # fmt: skip

# XD-Violence writes codes into its file names; A is normal.
XD_VIOLENCE = Classes(
    labels=("A", "B1", "B2", "B4", "B5", "B6", "G"),
    prompts=("normal", "fighting", "shooting", "riot", "abuse", "car accident", "explosion"),
)


def xd_labels(code: str) -> tuple[str, ...]:
    """Split an XD-Violence label code (`A`, `B2-0-0`, `G-B2-B6`) into its labels, in their order.

    A 0 fills an unused place. Raises InputError for an unknown code, a repeated one, or A beside another.
    """
    labels = tuple(part for part in code.split("-") if part != "0")
    unknown = [label for label in labels if label not in XD_VIOLENCE.labels]
    if not labels or unknown or len(set(labels)) != len(labels):
        raise InputError(
            f"XD-Violence label {code!r}: expected A, or up to three different codes of "
            f"{', '.join(XD_VIOLENCE.labels[1:])} joined by '-' with 0 for an unused place"
        )
    if XD_VIOLENCE.normal in labels and len(labels) > 1:
        raise InputError(f"XD-Violence label {code!r}: A (normal) stands together with another label")
    return labels


def classes_from(labels_found: Iterable[str], mapping: Mapping[str, str] | None) -> Classes:
    """Return the classes of a dataset: `dataset.classes` where given, else the labels that were found.

    Without a mapping `Normal` (or `normal`) comes first, the rest is sorted, and a label is its own prompt
    with `_` read as a space. With one, its order counts and its first label is normal. Labels that a mapping
    lacks are left to the caller, which knows the rows that hold them.
    """
    if mapping is not None:
        return Classes(labels=tuple(mapping), prompts=tuple(mapping.values()))
    found = set(labels_found)
    normal = [label for label in NORMAL_LABELS if label in found]
    if not normal:
        raise InputError(
            f"none of the labels {', '.join(sorted(found)) or '(none)'} is {' or '.join(NORMAL_LABELS)}: "
            "call the normal class that, or name all classes in dataset.classes (label: prompt, normal first)"
        )
    labels = (normal[0], *sorted(found - {normal[0]}))
    return Classes(labels=labels, prompts=tuple(label.replace("_", " ") for label in labels))
