"""How the pages word things; numbers and jobs are worded as in the rest of the project."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from html import escape

from pruning.jobs import describe, removed
from pruning.wording import (
    ACCURACY,
    NBSP,
    accuracy_meaning,
    accuracy_name,
    accuracy_within,
    by_chance,
    change,
    count,
    duration,
    duration_between,
    from_to,
    gmacs,
    gmacs_of,
    interval,
    likeness,
    likeness_sentence,
    megabytes,
    millions,
    milliseconds,
    outcome,
    paired_points,
    percent,
    points,
    printable,
    real_change,
    signed_points,
    speedup,
)

__all__ = [
    "ACCURACY",
    "NBSP",
    "STRUCTURE_TITLES",
    "accuracy_meaning",
    "accuracy_name",
    "accuracy_within",
    "by_chance",
    "change",
    "chart_text",
    "count",
    "describe",
    "duration",
    "duration_between",
    "from_to",
    "gmacs",
    "gmacs_of",
    "interval",
    "likeness",
    "likeness_sentence",
    "megabytes",
    "millions",
    "milliseconds",
    "outcome",
    "paired_points",
    "percent",
    "plain",
    "points",
    "real_change",
    "removed",
    "signed_points",
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


# ---- text that is not ours: names of files, classes, models and runs, and errors that quote them

_JOINER = "\u2060"  # has no width and allows no line break
# What Streamlit looks for in the text that Markdown leaves over, where no backslash helps any more:
# emoji, icons and directives (:red), addresses of pages and of people, and arrows written as ASCII.
_REPLACED = re.compile(r"(:)(?=[\w+/-])|(www)(?=\.)|(@)(?=[\w-])|(?<!\S)([-<>~])(?=(?:>|-|=|->)(?!\S))", re.I)
_MARKDOWN = re.compile(r"[\\`*_~$\[\]<&]")
_AT_START = re.compile(r"^(\d+(?=[.)](?:\s|$))|(?=[#+=>:-]))")  # lists, headings, quotations


def plain(text: str) -> str:
    """Text that is not ours, as Markdown which Streamlit shows as just that text, on one line.

    Everything that comes from outside goes through here before it meets a Streamlit call that takes
    Markdown. No picture is fetched, no link made, and no colour, icon, formula or heading appears.
    """
    apart = _REPLACED.sub(lambda found: found[0] + _JOINER, printable(text).strip())
    return _AT_START.sub(r"\1\\", _MARKDOWN.sub(r"\\\g<0>", apart))


def chart_text(text: str) -> str:
    """Text that is not ours, as Plotly shows it: it would take it for HTML, a formula or a template."""
    return escape(printable(text), quote=False).replace("$", "&#36;").replace("%{", f"%{_JOINER}{{")


def told_apart(names: Sequence[str]) -> tuple[str, ...]:
    """Names with their numbers added where two of them are alike."""
    counts = Counter(names)
    return tuple(name if counts[name] == 1 else f"{name} ({i})" for i, name in enumerate(names))
