"""Measure what budgets are solved on, for a method that can narrow single blocks."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from analysis.data import ImageSet
from pruning.budget import Narrow, Sensitivities, measure_schedules, measure_sensitivities
from pruning.methods.method import Task
from pruning.projection import mean_additions, measure_halves, steered
from pruning.tracked import tracked

_IMAGES = 64  # that merged tokens are measured on, at most
_FEWER = 16  # that halves of blocks are, or a few more


def sensitivities(
    task: Task, images: ImageSet, narrow: Narrow, structures: Collection[str], share: float = 1.0
) -> Sensitivities:
    """Sensitivities of `task.start` on these images, a `share` of them steered towards other classes.

    Steering balances the predicted classes [ours]: on photos of a few classes, the parts of late blocks
    that serve the other classes would appear free to remove.
    """
    loaded = task.start
    batches = tracked(images, loaded, "Running the dense model", task.monitor)
    balanced = steered(loaded.model, batches, share)
    place = task.monitor.folder
    found = measure_sensitivities(loaded.model, balanced, narrow, structures, task.monitor, place)
    return with_shorter(task, images, found, share)


def with_shorter(
    task: Task, images: ImageSet, found: Sensitivities, share: float = 1.0, *, depth: bool = True
) -> Sensitivities:
    """The same, with schedules of merging measured as well and, with `depth`, halves of blocks.

    Only half of the `share` of images is steered: small steps in single pixels are what merging averages
    away, so steered images alone would make merging in early blocks look dearer than it is [ours].
    """
    model, few = task.start.model, images.subset(range(min(_IMAGES, len(images))))
    batches = tracked(few, task.start, "Reading images", task.monitor)
    some = list(steered(model, batches, share / 2))
    found = replace(found, tokens=measure_schedules(model, some, task.monitor))
    if not depth:
        return found
    fewer = [(batch[: _FEWER // len(some) + 1], labels) for batch, labels in some]
    halves = measure_halves(model, fewer, mean_additions(model, some), task.monitor)
    return replace(found, halves=halves)


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
