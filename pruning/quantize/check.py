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
    evaluate_vectors,
    paired_change,
    take_turns,
)
from analysis.outputs import CLASSIFY
from pruning.progress import Progress
from pruning.quantize.choose import mean_divergence

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
    floating: Logits, quantised: Logits, batches: Iterable[tuple[Tensor, Tensor]], task: str = CLASSIFY
) -> Compared:
    """Evaluate both on the same labelled images; features find their neighbours among these.

    Raises:
        ValueError: no images, or logits that are not finite.
    """
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    for images, labels in batches:
        found.append((floating(images), quantised(images), labels))
    before, after = _evaluated(found, task)
    first, second = (torch.cat(given) for given in list(zip(*found, strict=True))[:2])
    kl = mean_divergence(task, first, second)
    return Compared(before, after, paired_change(before, after), agreement(before, after).share, kl)


def _evaluated(found: list[tuple[Tensor, Tensor, Tensor]], task: str) -> tuple[Evaluation, Evaluation]:
    """Evaluations of what both models gave, batch by batch."""
    first, second = ([(row[which], row[2]) for row in found] for which in (0, 1))
    if task == CLASSIFY:
        same = nn.Identity()  # `evaluate` is given logits in the place of images
        return evaluate(same, first), evaluate(same, second)
    labelled = len({int(label) for _, labels in first for label in labels}) > 1
    before = evaluate_vectors(first, labelled=labelled)
    return before, evaluate_vectors(second, labelled=labelled, reference=before)


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
