"""The Prune page: one question and one button; everything else may be chosen below."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import streamlit as st

from analysis.measure import Cost, cost
from analysis.models import LoadedModel
from analysis.vit import Architecture
from app import wording
from app.parts import charts, feedback, merged_patches, run_panel, trial
from app.state import head_locks, measured, session, session_runs, viewed_image
from app.views.prune import budget, duration, form, history, latest, offered, question
from app.views.prune.form import Choices
from app.views.prune.offered import EXACT
from pruning.budget import Budget
from pruning.cut import merges_of
from pruning.jobs import ROUGH_IMAGES, Job, TrialJob, require_feasible
from pruning.methods import Survey

NO_WIDTHS = "A budget is tried at the widths that are found for it: measure the sensitivities first."


def show() -> None:
    """The page."""
    loaded = session.model()
    st.header("Prune", anchor=False)
    head_locks.from_address()
    left, right = st.columns([2, 3], gap="large")
    with left:
        lead = st.container(key="lead")
        title = "More choices: method, widths, presets"
        with st.expander(title, expanded=not form.is_asked(), icon=":material/tune:", key="more"):
            chosen = form.choices(loaded.model.arch)
            name = form.run_name()
    with lead:
        job = chosen.job(_lead(loaded, chosen))
        started, attempt = _buttons(chosen)
        takes = st.container()
        form.locked()
    with right, feedback.sentences():
        latest.show(news=True)
        job = budget.leaving_images(job)
        found = budget.survey_of(job) if job.budget else None
        with takes:
            _takes(job, found, chosen)
        if started:  # before what follows is drawn, which takes seconds: a further click would undo this one
            _start(job, chosen, loaded, found, name)
        _show(job, chosen, loaded, found, attempt)
    with right, feedback.sentences():
        latest.show(news=False)
        with st.expander("The same on the command line", icon=":material/terminal:", key="command"):
            run_panel.command(replace(job, data=job.data or "DATA").command())
    head_locks.to_address()


# ---- on the left: the question, and the button


def _lead(loaded: LoadedModel, chosen: Choices) -> Budget | None:
    """The question, or that its answer plays no part; returns the budget it stands for."""
    if chosen.asks:
        st.subheader("How much smaller?", anchor=False)
        return question.ask(loaded, chosen.align, bool(offered.structures(chosen.method)))
    with st.container(horizontal=True, vertical_alignment="center", key="own-choice"):
        st.markdown(f"{_WAYS[chosen.mode]}, under **More choices**.", width="content")
        st.button("Back to one question", key="ask-again", on_click=form.ask_again)
    return None


_WAYS = {
    EXACT: "You name an exact budget",
    "sliders": "You choose how much is removed",
    "blocks": "You choose how much is removed, block by block",
    "preset": "You follow a published preset",
}


def _buttons(chosen: Choices) -> tuple[bool, bool]:
    """Whether a run is to be started, and whether what is chosen is to be tried first."""
    with st.container(horizontal=True, vertical_alignment="center", key="actions"):
        label = "Shrink it" if chosen.asks else "Prune"
        width: Any = 200 if chosen.asks else "content"  # beside the other buttons, on one line
        start = st.button(label, type="primary", icon=":material/content_cut:", width=width, key="prune")
        attempt = not chosen.asks and st.button(
            "Try it",
            icon=":material/science:",
            key="try",
            help=f"A run that gives a rough estimate of the accuracy, on at most "
            f"{wording.count(TrialJob.images)} test images. What would go is masked; a method that changes "
            f"weights runs on {ROUGH_IMAGES} calibration images, without training.",
        )
        history.buttons()
    return start, attempt


def _takes(job: Job, found: Survey | None, chosen: Choices) -> None:
    """How long the run will take, as far as that is known, and how long a trial of it."""
    if not job.data:
        return
    expected, to_measure = duration.of_pruning(job, found is not None), bool(job.budget) and found is None
    if expected is None:
        st.caption(":material/schedule: This method trains, so it takes from minutes to hours.")
    else:
        measures = " It measures the sensitivities first, once." if to_measure else ""
        st.caption(f":material/schedule: {wording.plain(expected.words)}.{measures} You may leave the page.")
    if not (chosen.asks or to_measure):
        tried = duration.of_trial(job)
        st.caption(
            f":material/science: Trying it first takes {wording.plain(tried.span)}, as a run of its own."
        )


# ---- on the right: what comes of it


def _show(job: Job, chosen: Choices, loaded: LoadedModel, found: Survey | None, attempt: bool) -> None:
    """What the choice saves: exactly where its widths are known."""
    dense = loaded.model.arch
    if job.budget is None:
        target = job.target(dense)
    elif found is None:
        budget.offer_survey(job)
        if attempt:
            raise session.NothingChosen(NO_WIDTHS)
        return
    elif _is_timed_later(job, chosen):
        budget.show(job, loaded, found, None)
        st.caption(
            "A time has no mark on the curve: the run finds the widths by timing them on this machine."
        )
        return
    else:
        allocation = budget.allocation(job, found, loaded)
        budget.show(job, loaded, found, allocation)
        target = allocation.arch
    _estimate(cost(dense), cost(target))
    if attempt:
        _require_possible(job, loaded)
        session_runs.begin(TrialJob.of(job, target))
        st.rerun()  # so that the sidebar shows it too
    trial.of_job(job, loaded, target)
    st.plotly_chart(charts.widths(dense, target), config=charts.CONFIG, key="widths")
    _merged(loaded, target)


def _merged(loaded: LoadedModel, target: Architecture) -> None:
    """On one photo, which patches become one token."""
    if not target.merges or not session.choice().data:
        return
    with st.expander("Merged patches", expanded=True, icon=":material/join:", key="merged"):
        merged_patches.show(loaded, viewed_image.of_set(0), merges_of(target))


def _estimate(before: Cost, after: Cost) -> None:
    figures = (
        ("Parameters", before.params, after.params, wording.count),
        ("Compute", before.macs, after.macs, wording.gmacs_of),
        ("Size, float32", before.bytes, after.bytes, wording.megabytes),
    )
    with st.container(key="estimate"):
        for column, (label, old, new, written) in zip(st.columns(3), figures, strict=True):
            column.metric(
                label,
                written(new),
                wording.real_change(old, new),
                delta_color="inverse",
                delta_description=f"from {written(old).partition(wording.NBSP)[0]}",
            )


def _is_timed_later(job: Job, chosen: Choices) -> bool:
    """Whether the run times the widths of its budget."""
    return chosen.asks and job.budget is not None and job.budget.kind == "ms"


def _start(job: Job, chosen: Choices, loaded: LoadedModel, found: Survey | None, name: str) -> None:
    """Start the run, which goes on without this page.

    Raises:
        ValueError: it could not be carried out.
    """
    _require_possible(job, loaded)
    if found is not None and not _is_timed_later(job, chosen):
        budget.allocation(job, found, loaded)
    run = session_runs.begin(job)
    if name:
        session_runs.annotate(run.folder, name=name)
        form.forget_run_name()
    st.rerun()  # so that the sidebar shows it too


def _require_possible(job: Job, loaded: LoadedModel) -> None:
    """Say now what is wrong with a job, as far as it can be known, and not minutes later by its run.

    Raises:
        ValueError: there are no images or they cannot be read, or the job cannot be carried out.
    """
    if not job.data:
        raise session.NothingChosen("Pruning needs images to test on. Choose some in the sidebar.")
    require_feasible(job, loaded)
    measured.prepared(job)
