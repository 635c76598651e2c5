"""Every way of making a model smaller, by name: criteria choose what stays, projections rewrite it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from analysis.evaluate import Batches
from analysis.vit import Architecture, ViT
from pruning.criteria import CRITERIA, Criterion
from pruning.options import Options
from pruning.spectral import SpectralOptions, spectral


@dataclass(frozen=True)
class Projection:
    """A method that computes new weights of the target's widths, instead of choosing among the old."""

    project: Callable[[ViT, Batches, Architecture, Any, Callable[[float], None]], ViT]
    options: type[Options]
    title: str
    explanation: str


METHODS: dict[str, Criterion | Projection] = {
    **CRITERIA,
    "spectral": Projection(
        spectral,
        SpectralOptions,
        "Spectral",
        "Keeps the best subspace of each head and refits what follows: no training, far more accuracy.",
    ),
}
