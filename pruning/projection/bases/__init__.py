"""Bases of fewer channels: in closed form, and fitted to the attention scores that matter."""

from pruning.projection.bases.attention_fit import fit_scores, score_importance
from pruning.projection.bases.planes import choose_planes, kept_planes, kept_rows, plane_products
from pruning.projection.bases.subspaces import orthonormal, qk_bases, value_bases

__all__ = [
    "choose_planes",
    "fit_scores",
    "kept_planes",
    "kept_rows",
    "orthonormal",
    "plane_products",
    "qk_bases",
    "score_importance",
    "value_bases",
]
