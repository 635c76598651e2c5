"""Spectral pruning as a `Method`: it computes new weights with the widths of the target."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from analysis.vit import Architecture, ViT
from pruning.budget import BUDGETED_STRUCTURES
from pruning.cut import Scores, shrink
from pruning.methods.heads_first import heads_first
from pruning.methods.method import Made, Request, Survey, Task
from pruning.methods.sensitivities import held_out, sensitivities
from pruning.options import Options
from pruning.projection import (
    SpectralOptions,
    narrow_spectral,
    spectral,
    spectral_target,
    whole_in_projections,
)


@dataclass(frozen=True)
class Spectral:
    """Low-rank projection of heads and MLPs, without training."""

    title: str = "Spectral"
    explanation: str = (
        "Computes low-rank approximations of each head's attention scores and output on calibration images, "
        "removes the MLP neurons that the others can best replace, and refits the other weights by least "
        "squares. Keeps far more accuracy than selecting channels, without training."
    )
    options: type[Options] = SpectralOptions
    chooses: bool = False
    heads_first: bool = True
    ranks_heads: bool = False
    narrows: bool = True

    def target(self, dense: Architecture, request: Request) -> Architecture:
        """The architecture after removing the ratios, subject to the locks.

        A narrower embedding also changes the kind of norm.

        Raises:
            ValueError: ratios or locks that do not fit the model.
        """
        widths = request.locks.widths(dense, shrink(dense, request.ratios, request.align))
        return spectral_target(dense, widths)

    def scores(self, task: Task) -> None:
        """None: spectral pruning projects weights instead of scoring parts."""
        return

    def survey(self, task: Task, images: int, scores: Scores | None = None) -> Survey:
        """The sensitivity to projecting one structure of one block.

        Raises:
            ValueError: all calibration images are used to fit the projection.
        """
        options = _options(task)
        fitted = task.batches("Reading calibration images", task.start)
        narrow = narrow_spectral(task.start.model, fitted, options, task.monitor.folder)
        others = held_out(task, options.images, images)
        whole = whole_in_projections(task.start.model.arch)
        narrowed = [name for name in BUDGETED_STRUCTURES if name not in whole]
        return Survey(sensitivities(task, others, narrow, narrowed, options.steered / 100))

    def make(self, task: Task, target: Architecture, scores: Scores | None = None) -> Made:
        """Remove whole heads first if requested, and project the rest.

        Raises:
            ValueError: the target is not the model with narrower structures, or there are no images.
        """
        heads, dense = heads_first(task, target), task.dense.model
        images = task.batches("Reading calibration images")
        narrowed = None if heads is None and task.whole is None else task.without(heads).model
        dense = dense if task.whole is None else task.whole.model
        progress = partial(task.monitor, "Projecting")
        place = task.monitor.folder
        return Made(spectral(dense, images, target, _options(task), progress, narrowed, place), None, heads)

    def preview(self, task: Task, target: Architecture, scores: Scores | None = None) -> ViT:
        """The projected model."""
        return self.make(task, target).model


def _options(task: Task) -> SpectralOptions:
    options = task.request.options
    if not isinstance(options, SpectralOptions):
        raise TypeError(f"spectral pruning takes SpectralOptions, got {type(options).__name__}")
    return options
