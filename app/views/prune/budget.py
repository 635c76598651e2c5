"""Budgets on the Prune page: what they are solved on, and the widths found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import streamlit as st

from analysis.measure import cost
from analysis.models import LoadedModel
from analysis.outputs import CLASSIFY, task_of
from analysis.vit import Architecture
from app import wording
from app.parts import run_panel
from app.parts.charts import CONFIG
from app.progress_bar import progress_bar
from app.state import measured, memo, session, session_runs
from app.views.prune import duration, offered
from app.views.prune.curve import charts, expected
from pruning.budget import Allocation, Point, amount, trade_off
from pruning.jobs import Job, SurveyJob, solve
from pruning.methods import METHODS, Survey, require_narrowing

ACCURACY, DAMAGE = "Expected accuracy", "Predicted damage"  # what the curve can show


def leaving_images(job: Job) -> Job:
    """The job with images left to solve its budget on.

    Spectral must not be fitted on all calibration images, as what a narrower structure loses is measured on
    others: of few images it is given three quarters.

    Raises:
        ValueError: the images cannot be read.
    """
    if job.method != "spectral" or job.budget is None or not job.data:
        return job
    count = measured.calibration_count(job)
    if (job.method_options.calibration_images or 0) < count:
        return job
    options = dict(job.options) | {"images": max(1, 3 * count // 4)}
    return replace(job, options=tuple(options.items()))


def survey_of(job: Job) -> Survey | None:
    """What the job's budget is solved on, if it is measured already.

    Raises:
        ValueError: the method takes no budget, no images are chosen, or they cannot be read.
    """
    require_narrowing(METHODS[job.method])
    if not job.data:
        raise session.NothingChosen("A budget is solved on images. Choose some in the sidebar.")
    if job.device == "":
        raise session.NothingChosen(
            "Upload the device.json that a benchmark kit wrote on the device. "
            "The command `python -m pruning kit` makes the kit."
        )
    return measured.survey(job)


def allocation(job: Job, found: Survey, loaded: LoadedModel) -> Allocation:
    """Widths for the job's budget.

    Raises:
        ValueError: the budget is out of reach.
    """
    curves = found.sensitivities
    key, begin = (session.choice(), replace(job, limit=None)), job.locks.left(loaded.model.arch)
    timed = job.budget is not None and job.budget.kind == "ms"
    if timed and memo.recall("allocation", key) is None:
        with progress_bar() as progress:
            table = measured.width_times(job, begin, progress)
            return memo.remember("allocation", key, lambda: solve(job, begin, curves, progress, table))
    return memo.remember("allocation", key, lambda: solve(job, begin, curves))


def offer_survey(job: Job) -> None:
    """Measure what budgets are solved on, as a run of its own; one that is at work is shown."""
    wanted = session_runs.lasting(_survey_job(job), copy=False)
    run = next((run for run in session_runs.listed() if run.job == wanted), None)
    if run is not None and (run.active or session_runs.is_news(run)) and run.state != "done":
        run_panel.panel(run, "survey-panel")
    if run is not None and run.active:
        st.caption("Budgets can be solved once this run has ended. You may leave the page meanwhile.")
        return
    with st.container(border=True, key="survey-offer"):
        classifies = task_of(session.model().model.arch) == CLASSIFY
        st.markdown(f"**What will it cost in {'accuracy' if classifies else 'likeness of its features'}?**")
        st.markdown(
            "To tell, a run measures how sensitive the model is: it narrows each structure of each block by "
            "itself, and records how far the model's output moves on calibration images. Then a curve of "
            "size against damage appears here, and budgets of any size are solved at once. A pruning run "
            "measures this by itself if need be."
        )
        if st.button("Measure it first", icon=":material/speed:", key="survey"):
            session_runs.begin(_survey_job(job))
            st.rerun()
        takes = duration.of_survey(job)
        if takes is not None:
            st.caption(f"{wording.plain(takes.words)}. The result is kept, so it is measured only once.")


def _survey_job(job: Job) -> SurveyJob:
    return SurveyJob.of(job, session.model().model.arch)


def show(job: Job, loaded: LoadedModel, found: Survey, chosen: Allocation | None) -> None:
    """What the budget's widths take, and the trade-off between compute and accuracy, or predicted damage."""
    if chosen is not None:
        kind = chosen.budget.kind
        how = "measured" if kind == "ms" else "calculated"
        how = f"predicted for {wording.plain(chosen.device)}" if chosen.device else how
        st.markdown(
            f"Budget: {amount(chosen.budget.asked, kind)}. "
            f"These widths take **{amount(chosen.got, kind)}** ({how})."
        )
    dense, asked = loaded.model.arch, job.budget
    begin = job.without_unread(job.locks.left(dense))
    allowed = (True, True) if asked is None else (asked.tokens, asked.depth)
    line = memo.remember(
        "trade-off",
        (session.choice(), found.sensitivities, begin, job.align, allowed),
        lambda: trade_off(begin, found.sensitivities, job.align, tokens=allowed[0], depth=allowed[1]),
    )
    here = None if chosen is None else (cost(chosen.arch).gmacs, chosen.loss)
    known = expected.of_job(job, dense, found)
    if known is None or _asked() == DAMAGE:
        _damage(line, here, dense, found)
        if known is None and task_of(dense) == CLASSIFY:
            st.caption("Once a run like this has ended, the accuracy to expect is shown here.")
    else:
        _accuracy(line, here, dense, known)


def _asked() -> str:
    """What the curve is to show: expected accuracy ends where nothing was tested, damage does not."""
    chosen: str = st.segmented_control(
        "Curve",
        (ACCURACY, DAMAGE),
        default=ACCURACY,
        required=True,
        key="curve",
        label_visibility="collapsed",
        persist_state="session",
    )
    return chosen


def _damage(
    line: Sequence[Point], here: tuple[float, float] | None, dense: Architecture, found: Survey
) -> None:
    """The predicted damage itself, where nothing tells what it comes to."""
    figure = charts.trade_off(line, here, cost(dense).gmacs, offered.preset_gmacs(dense))
    st.plotly_chart(figure, config=CONFIG, key="trade-off")
    damage = (
        "KL divergences from the dense model"
        if task_of(dense) == CLASSIFY
        else "the angles (1 − cosine) by which pooled features and patch tokens turn from the dense model's"
    )
    st.caption(
        f"Predicted damage, lower is better: the sum of {damage}, with one "
        f"structure narrowed alone, on up to {wording.count(found.sensitivities.images)} images. It ranks "
        "budgets and is no accuracy, which the run measures."
    )


def _accuracy(
    line: Sequence[Point], here: tuple[float, float] | None, dense: Architecture, known: expected.Expected
) -> None:
    """The accuracy that the predicted damage comes to, by what was tested."""
    if here is not None:
        st.markdown(expected.words(known, here[1]))
    figure = charts.expected(
        [(one.got, top1) for one in line if (top1 := known.top1(one.loss)) is not None],
        None if here is None else (here[0], known.top1(here[1])),
        known.dots,
        (cost(dense).gmacs, known.dense.top1),
        offered.preset_gmacs(dense),
    )
    st.plotly_chart(figure, config=CONFIG, key="trade-off-expected")
    st.caption(expected.source(known))
