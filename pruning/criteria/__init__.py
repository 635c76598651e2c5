"""Criteria: what each part of a model is worth, by name."""

from pruning.criteria.groups import group_norms
from pruning.criteria.head_graph import SCOPES, GraphOptions, counts_together, rank_heads
from pruning.criteria.head_measures import HEAD_MEASURES, READ, HeadReading, ask_heads, read_heads, weights_id
from pruning.criteria.registry import CRITERIA, Criterion
from pruning.criteria.snp import SnpOptions, snp

__all__ = [
    "CRITERIA",
    "HEAD_MEASURES",
    "READ",
    "SCOPES",
    "Criterion",
    "GraphOptions",
    "HeadReading",
    "SnpOptions",
    "ask_heads",
    "counts_together",
    "group_norms",
    "rank_heads",
    "read_heads",
    "snp",
    "weights_id",
]
