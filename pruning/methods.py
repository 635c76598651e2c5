"""Every way of making a model smaller, by name: criteria choose what stays, projections rewrite it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from analysis.measure import Batches
from analysis.vit import Architecture, ViT
from pruning.budget import Narrow
from pruning.criteria import CRITERIA, Criterion
from pruning.cut import HeadLocks, Plan, Ratios
from pruning.gohsp import GohspOptions, TrainingData, gohsp, gohsp_target
from pruning.options import Options
from pruning.progress import Monitor
from pruning.projection import SpectralOptions, narrow_spectral, spectral, spectral_target


@dataclass(frozen=True)
class Projection:
    """A method that computes new weights of the target's widths, instead of choosing among the old.

    The last argument of `project` is the model without the heads that were removed first, if any.

    `target` says what becomes of a dense architecture of which these widths are asked for.

    `narrow` makes a `Narrow` from model, calibration images and options; without one the method
    takes no budget.
    """

    project: Callable[[ViT, Batches, Architecture, Any, Callable[[float], None], ViT | None], ViT]
    options: type[Options]
    title: str
    explanation: str
    narrow: Callable[[ViT, Batches, Any], Narrow] | None = None
    target: Callable[[Architecture, Architecture], Architecture] = lambda _, widths: widths


@dataclass(frozen=True)
class Trained:
    """A method that trains towards a smaller model before it cuts; its options have `epochs`, 0 for none.

    `target` gives the widths that ratios, align and options ask for; `prune` takes the same, with
    calibration images, what there is to train on, and a monitor.
    """

    target: Callable[[Architecture, Ratios, int, Any, HeadLocks], Architecture]
    prune: Callable[
        [ViT, Batches, Ratios, int, Any, TrainingData | None, Monitor, HeadLocks], tuple[ViT, Plan]
    ]
    options: type[Options]
    title: str
    explanation: str
    narrow: None = None  # it takes no budget


METHODS: dict[str, Criterion | Projection | Trained] = {
    **CRITERIA,
    "spectral": Projection(
        spectral,
        SpectralOptions,
        "Spectral",
        "Keeps the best subspace of each head and refits what follows: no training, far more accuracy.",
        narrow_spectral,
        spectral_target,
    ),
    "gohsp": Trained(
        gohsp_target,
        gohsp,
        GohspOptions,
        "GOHSP",
        "Ranks heads by a graph of how alike they are (symmetric by cosine and attention: there the chain "
        "adds nothing to the plain degree), trains towards the structure that stays, and cuts.",
    ),
}
