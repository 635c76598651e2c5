"""What a user says of a model that its files do not say, or say otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

from analysis.formats import Checked, read_text
from analysis.models.preprocess import Preprocess

MOST_CLASSES_BYTES = 2**24


@dataclass(frozen=True)
class Reading(Checked):
    """How the files of a model are to be read; what is left out is decided by the files.

    `image_size` (rows, columns) resamples the position embedding; `num_classes` 0 drops the head; `labels`
    name the classes in the order of the logits; `mean`, `std` and `crop_pct` are those of the preprocessing.

    Raises:
        ValueError: a value of another type, an empty name, or another number of names than of classes.
    """

    image_size: tuple[int, int] | None = None
    num_classes: int | None = None
    labels: tuple[str, ...] = ()
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    crop_pct: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not all(label.strip() for label in self.labels):
            raise ValueError("each class needs a name, and one of those given is empty")
        if self.labels and self.num_classes is not None:
            _require_each(self.labels, self.num_classes)

    def of_bundle(self) -> Reading:
        """Without what a bundle decides itself: its structure, but for a classifier that is left out."""
        return replace(self, image_size=None, num_classes=None if self.num_classes else self.num_classes)

    def applied(self, preprocess: Preprocess, num_classes: int) -> Preprocess:
        """A model's preprocessing and class names as they are to be.

        Raises:
            ValueError: not as many names as classes, or values that cannot be.
        """
        if self.labels:
            _require_each(self.labels, num_classes)
        names = ("labels", "mean", "std", "crop_pct")
        said = {name: getattr(self, name) for name in names}
        return replace(preprocess, **{name: value for name, value in said.items() if value not in (None, ())})

    def words(self) -> list[str]:
        """The command line's options that say the same; class names would need a file, and are left out."""
        shown: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        del shown["labels"]
        words = []
        for name, value in shown.items():
            values = value if isinstance(value, tuple) else (value,)
            if value is not None:
                words += [f"--{name.replace('_', '-')}", ",".join(f"{number:g}" for number in values)]
        return words


class Named(NamedTuple):
    """A model as a user names it: its name, a file of weights if it needs one, and how it is to be read."""

    model: str
    weights: str | None = None
    reading: Reading = Reading()


def read_classes(file: Path) -> tuple[str, ...]:
    """Class names from a text file: one on each line, in the order of the model's logits.

    Raises:
        ValueError: the file cannot be read, names no class, or one of its lines between others is empty.
    """
    lines = [line.strip() for line in read_text(file, MOST_CLASSES_BYTES).splitlines()]
    while lines and not lines[-1]:
        lines.pop()
    if not lines:
        raise ValueError(
            f"{file} names no classes: it needs one name on each line, in the order of the logits"
        )
    if "" in lines:
        raise ValueError(f"{file} has no name on line {lines.index('') + 1}: each line names one class")
    return tuple(lines)


def _require_each(labels: Sequence[str], num_classes: int) -> None:
    if len(labels) != num_classes:
        way = "" if num_classes else ": it has no classifier, so leave them out"
        raise ValueError(
            f"{len(labels)} class names were given, but the model has {num_classes} classes{way}"
        )
