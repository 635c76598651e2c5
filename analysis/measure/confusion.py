"""Confusion matrices, and how confusions change from one model to another."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from analysis.measure.evaluate import Evaluation, require_same_images


@dataclass(frozen=True)
class PairChange:
    """Number of images of class `label` that were predicted as `predicted`, before and after."""

    label: int
    predicted: int
    before: int
    after: int

    @property
    def change(self) -> int:
        """Increase in the number of images."""
        return self.after - self.before


def confusion(result: Evaluation, classes: int) -> Int[Tensor, "classes classes"]:
    """Images by true class (rows) and predicted class (columns).

    Raises:
        ValueError: an image has a class of `classes` or more.
    """
    highest = max(*result.labels, *result.predictions, 0)
    if highest >= classes:
        raise ValueError(f"an image has class {highest}, but there are only {classes} classes")
    pairs = torch.tensor(result.labels) * classes + torch.tensor(result.predictions)
    return pairs.bincount(minlength=classes**2).unflatten(0, (classes, classes))


def confusion_changes(before: Evaluation, after: Evaluation) -> tuple[PairChange, ...]:
    """Confused pairs of true and predicted class whose number of images changed, largest change first.

    Among changes of the same size, increases come first, then the order of the classes decides.

    Raises:
        ValueError: the evaluations are not of the same images.
    """
    require_same_images(before, after)
    first, second = (Counter(zip(r.labels, r.predictions, strict=True)) for r in (before, after))
    pairs = [
        PairChange(label, predicted, first[label, predicted], second[label, predicted])
        for label, predicted in {*first, *second}
        if label != predicted
    ]
    changed = [pair for pair in pairs if pair.change]
    return tuple(sorted(changed, key=lambda p: (-abs(p.change), -p.change, p.label, p.predicted)))
