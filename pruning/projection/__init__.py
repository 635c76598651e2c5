"""Training-free projection: the best subspaces of each structure, and least-squares refits."""

from pruning.projection.compensate import COMPENSATION_IMAGES, compensate
from pruning.projection.rotation import rotate
from pruning.projection.spectral import SpectralOptions, narrow_spectral, spectral, spectral_target
from pruning.projection.steering import steered

__all__ = [
    "COMPENSATION_IMAGES",
    "SpectralOptions",
    "compensate",
    "narrow_spectral",
    "rotate",
    "spectral",
    "spectral_target",
    "steered",
]
