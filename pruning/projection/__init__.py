"""Training-free: the best subspaces of each structure, least-squares refits, and folding (VBP, CORP)."""

from pruning.projection.compensate import COMPENSATION_IMAGES, compensate
from pruning.projection.depth import mean_additions, measure_halves, remove_halves
from pruning.projection.folding import (
    AffineFolding,
    CorpOptions,
    Folding,
    MeanShift,
    VbpOptions,
    corp_scores,
    fold,
    narrow_folded,
    vbp_scores,
    whole_in_foldings,
)
from pruning.projection.rotation import rotate
from pruning.projection.spectral import (
    SpectralOptions,
    narrow_spectral,
    spectral,
    spectral_target,
    whole_in_projections,
)
from pruning.projection.steering import steered, steered_twice

__all__ = [
    "COMPENSATION_IMAGES",
    "AffineFolding",
    "CorpOptions",
    "Folding",
    "MeanShift",
    "SpectralOptions",
    "VbpOptions",
    "compensate",
    "corp_scores",
    "fold",
    "mean_additions",
    "measure_halves",
    "narrow_folded",
    "narrow_spectral",
    "remove_halves",
    "rotate",
    "spectral",
    "spectral_target",
    "steered",
    "steered_twice",
    "vbp_scores",
    "whole_in_foldings",
    "whole_in_projections",
]
