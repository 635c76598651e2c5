"""Budgets on the Prune page: what they are solved on, and the widths found."""

from __future__ import annotations

from dataclasses import replace

import streamlit as st

from analysis.measure import cost
from analysis.models import LoadedModel
from app import wording
from app.parts import charts, run_panel
from app.progress_bar import progress_bar
from app.state import measured, memo, session, session_runs
from pruning.budget import Allocation, amount, trade_off
from pruning.jobs import Job, SurveyJob, require_classifier, solve
from pruning.methods import METHODS, require_narrowing


def allocation(job: Job, loaded: LoadedModel) -> Allocation | None:
    """Widths for the job's budget; None as long as the sensitivities that they rest on are not measured.

    Raises:
        ValueError: the method takes no budget, no images are chosen, or the budget is out of reach.
    """
    require_narrowing(METHODS[job.method])
    if not job.data:
        raise session.NothingChosen("A budget is solved on images. Choose some in the sidebar.")
    require_classifier(loaded)
    if job.device == "":
        raise session.NothingChosen(
            "Upload the device.json that a benchmark kit wrote on the device. "
            "The command `python -m pruning kit` makes the kit."
        )
    found = measured.survey(job)
    if found is None or job.budget is None:
        _offer_survey(job)
        return None
    curves = found.sensitivities
    key, begin = (session.choice(), replace(job, limit=None)), job.locks.left(loaded.model.arch)
    if job.budget.kind == "ms" and memo.recall("allocation", key) is None:
        with progress_bar() as progress:
            table = measured.width_times(job, begin, progress)
            return memo.remember("allocation", key, lambda: solve(job, begin, curves, progress, table))
    return memo.remember("allocation", key, lambda: solve(job, begin, curves))


def _offer_survey(job: Job) -> None:
    """Measure what budgets are solved on, as a run of its own; one that is at work is shown."""
    wanted = session_runs.lasting(SurveyJob.of(job), copy=False)
    run = next((run for run in session_runs.listed() if run.job == wanted), None)
    if run is not None and (run.active or session_runs.is_news(run)) and run.state != "done":
        run_panel.panel(run, "survey-panel")
    if run is not None and run.active:
        st.caption("Budgets can be solved once this run has ended. You may leave the page meanwhile.")
        return
    st.markdown(
        "A budget needs to know how sensitive the model is. Each structure of each block is narrowed "
        "alone, and a run measures on calibration images how far the predictions move. It takes a while, "
        "but only once: the result is kept, and budgets of any size are then solved at once."
    )
    if st.button("Measure sensitivities", type="primary", icon=":material/speed:", key="survey"):
        session_runs.begin(SurveyJob.of(job))
        st.rerun()


def show(job: Job, loaded: LoadedModel, chosen: Allocation) -> None:
    """The budget and what its widths cost, and the predicted damage of other budgets."""
    kind, found = chosen.budget.kind, measured.survey(job)
    how = "measured" if kind == "ms" else "calculated"
    how = f"predicted for {wording.plain(chosen.device)}" if chosen.device else how
    st.markdown(
        f"Budget: {amount(chosen.budget.asked, kind)}. "
        f"These widths take **{amount(chosen.got, kind)}** ({how})."
    )
    if found is None:
        return
    begin = job.locks.left(loaded.model.arch)
    line = memo.remember(
        "trade-off",
        (session.choice(), found.sensitivities, job.align, job.skip_unread),
        lambda: trade_off(job.without_unread(begin), found.sensitivities, job.align),
    )
    points = [(one.got, one.loss) for one in line]
    here = cost(chosen.arch).gmacs, chosen.loss
    st.plotly_chart(charts.trade_off(points, here), config=charts.CONFIG, key="trade-off")
    st.caption(
        "Predicted damage, lower is better: the sum of KL divergences from the dense model, with one "
        f"structure narrowed alone, on up to {wording.count(found.sensitivities.images)} images."
    )
