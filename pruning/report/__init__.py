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
    with_int8,
)
from pruning.report.html import is_report, make_report
from pruning.report.objects import ObjectScores, object_scores
from pruning.report.quantized import int8_columns, quantized_row

__all__ = [
    "MAX_COMPARED",
    "ComparedModel",
    "Comparison",
    "ObjectScores",
    "Trade",
    "aligned",
    "dense_of",
    "int8_columns",
    "is_report",
    "make_report",
    "newest_timings",
    "object_scores",
    "of_bundle",
    "quantized_row",
    "smaller_of",
    "trade_front",
    "with_int8",
]
