"""The part of the Prune page that finds widths for a budget."""

from __future__ import annotations

from dataclasses import replace

import streamlit as st

from analysis.measure import cost
from analysis.models import LoadedModel
from app import wording
from app.parts import charts
from app.progress_bar import progress_bar
from app.state import measured, memo, session
from pruning.budget import Allocation, amount, trade_off
from pruning.jobs import Job, Survey, require_narrowing, solve


def allocation(job: Job, loaded: LoadedModel) -> Allocation | None:
    """Widths for the job's budget; None as long as the sensitivities they rest on are not measured.

    Raises:
        ValueError: the method takes no budget, no images are chosen, or the budget is out of reach.
    """
    require_narrowing(job.method)
    if not job.data:
        raise session.NothingChosen("A budget is solved on images. Pick some in the sidebar.")
    found = measured.surveyed(job) or _measured(job)
    if found is None or job.budget is None:
        return None
    key, begin = (session.choice(), replace(job, limit=None)), job.locks.left(loaded.model.arch)
    if job.budget.kind == "ms" and memo.recall("allocation", key) is None:
        with progress_bar() as progress:
            table = measured.width_times(begin, job.budget.batch, job.align, progress)
            return memo.remember("allocation", key, lambda: solve(job, begin, found, progress, table))
    return memo.remember("allocation", key, lambda: solve(job, begin, found))


def _measured(job: Job) -> Survey | None:
    """Measure what budgets are solved on, if the button is pressed."""
    place = st.empty()
    with place.container():
        st.markdown(
            "Each structure of each block is narrowed by itself, and how far the predictions move is "
            "measured on calibration images. That takes a while, once; then budgets are solved at once."
        )
        if not st.button("Measure sensitivities", type="primary", icon=":material/speed:", key="survey"):
            return None
        with progress_bar() as progress:
            found = measured.surveyed(job, progress)
    place.empty()
    return found


def show(job: Job, loaded: LoadedModel, chosen: Allocation) -> None:
    """What was asked and got, and what other budgets are predicted to cost."""
    kind, found = chosen.budget.kind, measured.surveyed(job)
    how = "measured" if kind == "ms" else "counted"
    st.markdown(f"Asked for {amount(chosen.budget.asked, kind)}, got **{amount(chosen.got, kind)}**, {how}.")
    if found is None:
        return
    begin = job.locks.left(loaded.model.arch)
    line = memo.remember(
        "trade-off",
        (session.choice(), found.sensitivities, job.align, job.skip_unread),
        lambda: trade_off(job.counted(begin), found.sensitivities, job.align),
    )
    points = [(one.got, one.loss) for one in line]
    here = cost(chosen.arch).gmacs, chosen.loss
    st.plotly_chart(charts.trade_off(points, here), config=charts.CONFIG, key="trade-off")
    st.caption(
        f"Predicted, not measured: the sum of KL divergences from the dense model, each measured on "
        f"{wording.count(found.sensitivities.images)} images with one structure narrowed. Less is better."
    )
