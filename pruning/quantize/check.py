"""Measures a quantised file against the float file: predictions on test images, and time in turns."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from analysis.measure import (
    Evaluation,
    PairedChange,
    Timing,
    agreement,
    compare,
    evaluate,
    paired_change,
    take_turns,
)
from pruning.progress import Progress
from pruning.quantize.choose import mean_kl

Logits = Callable[[Tensor], Tensor]
BATCHES = (1, 8)  # batch sizes that are timed
ROUNDS = 15  # before the first verdict
_LOOKS = 2


@dataclass(frozen=True)
class Compared:
    """Predictions of a quantised model against those of the float model on the same images."""

    before: Evaluation
    after: Evaluation
    change: PairedChange
    agreement: float
    kl: float


def compare_predictions(
    floating: Logits, quantised: Logits, batches: Iterable[tuple[Tensor, Tensor]]
) -> Compared:
    """Evaluate both on the same labelled images.

    Raises:
        ValueError: no images, or logits that are not finite.
    """
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    for images, labels in batches:
        found.append((floating(images), quantised(images), labels))
    same = nn.Identity()  # `evaluate` is given logits in the place of images
    before = evaluate(same, [(first, labels) for first, _, labels in found])
    after = evaluate(same, [(second, labels) for _, second, labels in found])
    logs = (torch.cat(logits).log_softmax(dim=-1) for logits in list(zip(*found, strict=True))[:2])
    return Compared(
        before, after, paired_change(before, after), agreement(before, after).share, mean_kl(*logs)
    )


def compare_speed(
    floating: Logits, quantised: Logits, image_shape: tuple[int, int, int], threads: int, progress: Progress
) -> dict[int, Timing]:
    """Time both in turns at each of `BATCHES`: how many times faster the quantised model is."""
    measured = take_turns(
        (quantised, floating),
        image_shape,
        BATCHES,
        threads=threads,
        rounds=ROUNDS,
        looks=_LOOKS,
        progress=lambda share: progress("Timing the quantised file", share),
    )
    return {batch: compare(times[0], times[1], _LOOKS) for batch, times in measured.items()}
