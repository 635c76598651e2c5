"""Spectral pruning as a method: it computes new weights of the target's widths."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from analysis.data import ImageSet
from analysis.vit import Architecture, ViT
from pruning.budget import BUDGETED_STRUCTURES
from pruning.cut import Scores, shrink
from pruning.methods.heads_first import heads_first
from pruning.methods.method import Made, Request, Survey, Task
from pruning.methods.sensitivities import sensitivities
from pruning.options import Options
from pruning.projection import SpectralOptions, narrow_spectral, spectral, spectral_target


@dataclass(frozen=True)
class Spectral:
    """Projection onto the best subspaces, without training."""

    title: str = "Spectral"
    explanation: str = (
        "Keeps the best subspace of each head and refits what follows: no training, far more accuracy."
    )
    options: type[Options] = SpectralOptions
    chooses: bool = False
    heads_first: bool = True
    ranks_heads: bool = False
    narrows: bool = True

    def target(self, dense: Architecture, request: Request) -> Architecture:
        """Widths by the ratios, heads as the locks demand; a narrower embedding changes the norms.

        Raises:
            ValueError: ratios or locks that do not fit the model.
        """
        widths = request.locks.widths(dense, shrink(dense, request.ratios, request.align))
        return spectral_target(dense, widths)

    def scores(self, task: Task) -> None:
        """It ranks nothing."""
        return

    def survey(self, task: Task, images: int, scores: Scores | None = None) -> Survey:
        """The damage of projecting one structure of one block.

        Raises:
            ValueError: no calibration images besides those it is fitted on.
        """
        options = _options(task)
        fitted = task.batches("Reading calibration images", task.start)
        narrow = narrow_spectral(task.start.model, fitted, options)
        others = _not_fitted_on(task, options, images)
        return Survey(sensitivities(task, others, narrow, BUDGETED_STRUCTURES, options.steered / 100))

    def make(self, task: Task, target: Architecture, scores: Scores | None = None) -> Made:
        """Remove heads first where that is asked for, and project what stays.

        Raises:
            ValueError: a target that is not the model with narrower structures, or no images.
        """
        heads, dense = heads_first(task, target), task.dense.model
        images = task.batches("Reading calibration images")
        narrowed = None if heads is None else task.without(heads).model
        tell = partial(task.monitor, "Projecting")
        return Made(spectral(dense, images, target, _options(task), tell, narrowed), None, heads)

    def preview(self, task: Task, target: Architecture, scores: Scores | None = None) -> ViT:
        """The projected model itself."""
        return self.make(task, target).model


def _options(task: Task) -> SpectralOptions:
    options = task.request.options
    if not isinstance(options, SpectralOptions):
        raise TypeError(f"spectral pruning takes SpectralOptions, got {type(options).__name__}")
    return options


def _not_fitted_on(task: Task, options: SpectralOptions, count: int) -> ImageSet:
    """Calibration images that the projection is not fitted on, which it would flatter; `count` at most.

    Raises:
        ValueError: it is fitted on all there are.
    """
    seed, whole = task.request.seed, len(task.calibration)
    mixed = task.calibration.sample(whole, seed)  # its beginning is what the method is fitted on
    others = mixed.subset(range(min(options.images, whole), whole))
    if not len(others):
        raise ValueError(
            f"a budget needs calibration images besides those that spectral is fitted on, but all "
            f"{whole} are taken: lower its option images, or give more images"
        )
    return others.sample(min(count, len(others)), seed)
