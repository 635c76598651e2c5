"""Measure what budgets are solved on, for a method that can narrow single blocks."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace

from torch import Tensor

from analysis.data import ImageSet
from pruning.budget import (
    Narrow,
    Sensitivities,
    dense_curves,
    measure_schedules,
    measure_sensitivities,
)
from pruning.methods.method import Task
from pruning.projection import mean_additions, measure_halves, steered, steered_twice
from pruning.tracked import tracked

_IMAGES = 64  # that merged tokens are measured on, at most
_FEWER = 16  # that halves of blocks are, or a few more

# The steps of a survey, and about how long they take in comparison, with spectral, for DeiT-Tiny and the demo
SURVEY_STEPS = {
    "Reading calibration images": 12,  # or scoring
    "Running the dense model": 11,
    "Measuring sensitivities": 60,
    "Measuring merged tokens": 13,
    "Measuring halves of blocks": 4,
}

_Batch = tuple[Tensor, Tensor]  # images B C Y X, labels B


def sensitivities(
    task: Task, images: ImageSet, narrow: Narrow, structures: Collection[str], share: float = 1.0
) -> Sensitivities:
    """Sensitivities of `task.start` on these images, a `share` of them steered towards other classes.

    Steering balances the predicted classes [ours]: on photos of a few classes, the parts of late blocks
    that serve the other classes would appear free to remove.
    """
    model, some = task.start.model, list[_Batch]()
    batches = tracked(images, task.start, "Running the dense model", task.monitor)
    balanced = _keeping(some, steered_twice(model, batches, share))
    found = measure_sensitivities(model, balanced, narrow, structures, task.monitor, task.monitor.folder)
    fewer = [(batch[: _FEWER // len(some) + 1], labels) for batch, labels in some]
    return replace(
        found,
        tokens=measure_schedules(model, some, task.monitor),
        halves=measure_halves(model, fewer, mean_additions(model, some), task.monitor),
    )


def schedules_alone(task: Task, images: ImageSet) -> Sensitivities:
    """What merging does, measured like that of `sensitivities`; nothing else can be taken away."""
    model, few = task.start.model, images.subset(range(min(_IMAGES, len(images))))
    batches = list(steered(model, tracked(few, task.start, "Reading images", task.monitor), 0.5))
    blocks = tuple(dense_curves(widths) for widths in model.arch.blocks)
    return Sensitivities(blocks, len(images), tokens=measure_schedules(model, batches, task.monitor))


def _keeping(some: list[_Batch], batches: Iterable[tuple[Tensor, Tensor, Tensor]]) -> Iterator[_Batch]:
    """Steered images; the first of them go into `some` with half as many of them steered.

    Small steps in single pixels are what merging averages away, so steered images alone would make
    merging in early blocks look dearer than it is [ours].
    """
    for images, half, labels in batches:
        room = _IMAGES - sum(len(kept) for kept, _ in some)
        if room > 0:
            some.append((half[:room], labels[:room]))
        yield images, labels


def held_out(task: Task, fitted: int, count: int) -> ImageSet:
    """At most `count` calibration images besides the `fitted` ones, so that the estimate is fair.

    Raises:
        ValueError: the method is fitted on all of them.
    """
    seed, total = task.request.seed, len(task.calibration)
    shuffled = task.calibration.sample(total, seed)  # a method is fitted on the first images of it
    others = shuffled.subset(range(min(fitted, total), total))
    if not len(others):
        raise ValueError(
            "a budget needs calibration images that the method is not fitted on, but it is fitted on all "
            f"{total} of them: lower its option images, or provide more images"
        )
    return others.sample(min(count, len(others)), seed)
