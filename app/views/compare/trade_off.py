"""The Compare page's trade-off between cost and accuracy: all runs of one dense model."""

from __future__ import annotations

import streamlit as st

from app import wording
from app.glossary import meaning
from app.parts import charts
from app.state import address
from app.views.compare import charts as compare_charts
from pruning.report import Comparison, trade_front

AXES = {"gmacs": "MACs", "speedup": "Latency"}


def show(found: Comparison) -> None:
    """Top-1 against MACs or latency, with the Pareto front."""
    timed = [trade for trade in found.trades if trade.speedup is not None and not trade.dense]
    by = address.pick("against", "compare-axis", list(AXES), _axis) if timed else "gmacs"
    front = trade_front(found.trades, by)
    st.plotly_chart(
        compare_charts.pareto(found.trades, front, {model.name for model in found.models}, by),
        config=charts.CONFIG,
        key="runs-scatter",
        alt=f"{wording.accuracy_within(found.dense.result)} against {AXES[by]} of all runs, with the "
        "Pareto front",
    )
    names = ", ".join(wording.plain(trade.name) for trade in front)
    measured = (
        f" Latency has been measured for {len(timed)} of {len(found.trades) - 1} runs."
        if by == "speedup"
        else ""
    )
    st.caption(
        f"On the Pareto front, where no other model is both cheaper and more accurate: {names}. The bars are "
        "95 % intervals of each model alone; point at a model for its change against the dense one on the "
        f"same images.{measured}",
        help=meaning("Pareto front", "95 % interval"),
    )


def _axis() -> str | None:
    chosen: str | None = st.segmented_control(
        "Against",
        list(AXES),
        format_func=AXES.__getitem__,
        required=True,
        key="compare-axis",
        persist_state="session",
    )
    return chosen
