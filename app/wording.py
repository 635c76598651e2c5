"""Words of the pages; numbers and jobs are worded as everywhere."""

from __future__ import annotations

import re

from pruning.jobs import job, removed
from pruning.wording import (
    NBSP,
    change,
    count,
    gmacs,
    gmacs_of,
    interval,
    megabytes,
    millions,
    milliseconds,
    percent,
    points,
)

__all__ = [
    "NBSP",
    "STRUCTURE_TITLES",
    "change",
    "count",
    "gmacs",
    "gmacs_of",
    "interval",
    "job",
    "megabytes",
    "millions",
    "milliseconds",
    "percent",
    "plain",
    "points",
    "removed",
]

STRUCTURE_TITLES = {
    "qk": "Query-key pairs",
    "v": "Value channels",
    "mlp": "MLP neurons",
    "heads": "Whole heads",
    "embed": "Residual channels",
}


def plain(text: str) -> str:
    """Text from elsewhere, such as a file's name, so that Markdown shows it as it is."""
    return re.sub(r"([\\`*_~$\[\]<])", r"\\\1", text)
