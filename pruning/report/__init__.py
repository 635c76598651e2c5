"""Comparisons of finished runs, as data and as one HTML file."""

from pruning.report.comparison import (
    MAX_COMPARED,
    ComparedModel,
    Comparison,
    Trade,
    aligned,
    dense_of,
    newest_timings,
    of_bundle,
    smaller_of,
    trade_front,
)
from pruning.report.html import is_report, make_report
from pruning.report.objects import ObjectScores, object_scores

__all__ = [
    "MAX_COMPARED",
    "ComparedModel",
    "Comparison",
    "ObjectScores",
    "Trade",
    "aligned",
    "dense_of",
    "is_report",
    "make_report",
    "newest_timings",
    "object_scores",
    "of_bundle",
    "smaller_of",
    "trade_front",
]
