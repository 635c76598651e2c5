"""Finished runs side by side in one HTML file."""

from pruning.report.comparison import (
    BESIDE,
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
from pruning.report.html import make_report
from pruning.report.objects import OnObjects, on_objects

__all__ = [
    "BESIDE",
    "ComparedModel",
    "Comparison",
    "OnObjects",
    "Trade",
    "aligned",
    "dense_of",
    "make_report",
    "newest_timings",
    "of_bundle",
    "on_objects",
    "smaller_of",
    "trade_front",
]
