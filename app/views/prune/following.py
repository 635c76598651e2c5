"""What the sliders come to while one of them is dragged, which the browser looks up by itself."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import streamlit as st

from analysis.measure import cost
from analysis.vit import Architecture
from app.state import memo
from app.views.prune import widths
from pruning.jobs import Job

STEP = 19  # percent between the points that are looked up; between them costs go along lines but for rounding
Point = tuple[int, int, float]  # what a slider is set to, and parameters and GMACs then

_HERE = Path(__file__)
_draw = st.components.v2.component(
    "prunescope.following",
    html='<p class="following"></p>',
    css=".following { margin: 0; min-height: 1.3em; font: 0.9rem var(--st-font); color: inherit }",
    js=_HERE.with_suffix(".js").read_text(encoding="utf-8"),
)


def show(job: Job, dense: Architecture) -> None:
    """Say what the smaller model costs, and go on saying it while a slider of ratios moves.

    Nothing is said of a job that no model can have, as the page says why.
    """
    data = memo.remember("following", (job, dense), lambda: _data(job, dense))
    if data is not None:
        _draw(key="following", data=data, height="content")


def _data(job: Job, dense: Architecture) -> dict[str, object] | None:
    try:
        now = cost(job.target(dense))
    except ValueError:
        return None
    before, shown = cost(dense), widths.shown(job.method, dense)
    return {
        "dense": [before.params, before.gmacs],
        "now": [now.params, now.gmacs],
        "lines": {key: list(_line(job, dense, name)) for name, key in shown.items()},
    }


def _line(job: Job, dense: Architecture, name: str) -> Iterable[Point]:
    """What each setting of one slider comes to, the others left where they are."""
    for percent in range(0, widths.HIGHEST + 1, STEP):
        ratios = replace(job.ratios, **{name: percent / 100})
        try:
            found = cost(replace(job, ratios=ratios).target(dense))
        except ValueError:  # rounded or locked heads do not allow it
            continue
        yield percent, found.params, found.gmacs
