"""Importance of single heads, similarities between heads, and agreement between importance measures."""

from analysis.heads import loss, statistics
from analysis.heads.agreement import spearman
from analysis.heads.graph import SIMILARITIES, similarities, stationary, transition
from analysis.heads.loss import ablation, gate_slopes, taylor
from analysis.heads.similarity import AllHeads, diagonal_blocks, edges, groups, head_names, layout, nearest

__all__ = [
    "SIMILARITIES",
    "AllHeads",
    "ablation",
    "diagonal_blocks",
    "edges",
    "gate_slopes",
    "groups",
    "head_names",
    "layout",
    "loss",
    "nearest",
    "similarities",
    "spearman",
    "stationary",
    "statistics",
    "taylor",
    "transition",
]
