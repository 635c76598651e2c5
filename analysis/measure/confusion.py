"""Which classes are taken for which, and how that changes from one model to another."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from analysis.measure.evaluate import Evaluation, require_same_images


@dataclass(frozen=True)
class PairChange:
    """How many images of class `label` were called `predicted` before and after."""

    label: int
    predicted: int
    before: int
    after: int

    @property
    def change(self) -> int:
        """Images more than before."""
        return self.after - self.before


def confusion(result: Evaluation, classes: int) -> Int[Tensor, "classes classes"]:
    """Images by true class (rows) and predicted class (columns).

    Raises:
        ValueError: a class beyond `classes`.
    """
    highest = max(*result.labels, *result.predictions, 0)
    if highest >= classes:
        raise ValueError(f"there is an image of class {highest}, and there are only {classes} classes")
    places = torch.tensor(result.labels) * classes + torch.tensor(result.predictions)
    return places.bincount(minlength=classes**2).unflatten(0, (classes, classes))


def confusion_changes(before: Evaluation, after: Evaluation) -> tuple[PairChange, ...]:
    """Wrong pairs of true and predicted class whose number changed, the largest change first.

    Between equal changes those that became more come first, then the classes' order decides.

    Raises:
        ValueError: they are not of the same images.
    """
    require_same_images(before, after)
    first, second = (Counter(zip(r.labels, r.predictions, strict=True)) for r in (before, after))
    pairs = [
        PairChange(label, predicted, first[label, predicted], second[label, predicted])
        for label, predicted in {*first, *second}
        if label != predicted
    ]
    moved = [pair for pair in pairs if pair.change]
    return tuple(sorted(moved, key=lambda p: (-abs(p.change), -p.change, p.label, p.predicted)))
