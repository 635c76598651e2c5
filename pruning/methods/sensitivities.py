"""Measure sensitivities for a method that can narrow single blocks."""

from __future__ import annotations

from collections.abc import Collection

from analysis.data import ImageSet
from pruning.budget import Narrow, Sensitivities, measure_sensitivities
from pruning.methods.method import Task
from pruning.projection import steered
from pruning.tracked import tracked


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
    return measure_sensitivities(loaded.model, balanced, narrow, structures, task.monitor, place)
