"""How the pages word things; numbers and jobs are worded as in the rest of the project."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from pruning.jobs import describe, removed
from pruning.wording import (
    NBSP,
    by_chance,
    change,
    count,
    duration,
    from_to,
    gmacs,
    gmacs_of,
    interval,
    megabytes,
    millions,
    milliseconds,
    paired_points,
    percent,
    points,
    speedup,
)

__all__ = [
    "NBSP",
    "STRUCTURE_TITLES",
    "by_chance",
    "change",
    "count",
    "describe",
    "duration",
    "from_to",
    "gmacs",
    "gmacs_of",
    "interval",
    "megabytes",
    "millions",
    "milliseconds",
    "paired_points",
    "percent",
    "plain",
    "points",
    "removed",
    "speedup",
    "told_apart",
]

STRUCTURE_TITLES = {
    "qk": "Query-key pairs",
    "v": "Value channels",
    "mlp": "MLP neurons",
    "heads": "Whole heads",
    "embed": "Residual channels",
}


def plain(text: str) -> str:
    """Text from elsewhere, such as a file's name, escaped so that Markdown shows it as it is."""
    return re.sub(r"([\\`*_~$\[\]<])", r"\\\1", text)


def told_apart(names: Sequence[str]) -> tuple[str, ...]:
    """Names with their numbers added where two of them are alike."""
    counts = Counter(names)
    return tuple(name if counts[name] == 1 else f"{name} ({i})" for i, name in enumerate(names))
