"""Training-free projection: the best subspaces of each structure, and least-squares refits."""

from pruning.projection.compensate import COMPENSATION_IMAGES, compensate
from pruning.projection.depth import mean_additions, measure_halves, remove_halves
from pruning.projection.rotation import rotate
from pruning.projection.spectral import SpectralOptions, narrow_spectral, spectral, spectral_target
from pruning.projection.steering import steered

__all__ = [
    "COMPENSATION_IMAGES",
    "SpectralOptions",
    "compensate",
    "mean_additions",
    "measure_halves",
    "narrow_spectral",
    "remove_halves",
    "rotate",
    "spectral",
    "spectral_target",
    "steered",
]
