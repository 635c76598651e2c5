"""The Prune page: one question and one button; everything else may be chosen below."""

from __future__ import annotations

from dataclasses import replace

import streamlit as st

from analysis.measure import Cost, Evaluation, cost
from analysis.models import LoadedModel
from analysis.vit import Architecture
from app import wording
from app.parts import charts, feedback, merged_patches
from app.progress_bar import progress_bar
from app.state import head_locks, measured, memo, session, session_runs, viewed_image
from app.views.prune import budget, duration, form, history, latest, offered, question
from app.views.prune.form import Choices
from app.views.prune.offered import EXACT
from pruning.budget import Budget
from pruning.cut import merges_of
from pruning.evaluation import evaluate_model
from pruning.jobs import ROUGH_IMAGES, Job, preview, require_feasible
from pruning.methods import Survey
from pruning.progress import Progress

TRY_ON = 128  # test images of a what-if


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
        _show(job, chosen, loaded, found, attempt)
        if started:
            _start(job, loaded, name)
    with right, feedback.sentences():
        latest.show(news=False)
        with st.expander("The same on the command line", icon=":material/terminal:", key="command"):
            written = replace(job, data=job.data or "DATA").command()
            st.code(written, language="bash", wrap_lines=True)
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
        start = st.button(label, type="primary", icon=":material/content_cut:", width=200, key="prune")
        attempt = not chosen.asks and st.button(
            "Try it",
            icon=":material/science:",
            key="try",
            help=f"A rough estimate of the accuracy, on {TRY_ON} test images. What would go is masked; "
            f"a method that changes weights runs on {ROUGH_IMAGES} calibration images, without training.",
        )
        history.buttons()
    return start, attempt


def _takes(job: Job, found: Survey | None, chosen: Choices) -> None:
    """How long the run will take, as far as that is known."""
    if not job.data:
        return
    expected = duration.of_pruning(job, found is not None)
    if expected is None:
        st.caption(":material/schedule: This method trains, so it takes from minutes to hours.")
        return
    measures = " It measures the sensitivities first, once." if job.budget and found is None else ""
    st.caption(f":material/schedule: {wording.plain(expected.words)}.{measures} You may leave the page.")
    trial = None if chosen.asks else duration.of_trial(job, TRY_ON)
    if trial is not None:
        st.caption(
            f":material/science: Trying it takes {wording.plain(trial.span)}. Stay on the page meanwhile."
        )


# ---- on the right: what comes of it


def _show(job: Job, chosen: Choices, loaded: LoadedModel, found: Survey | None, attempt: bool) -> None:
    """What the choice saves: exactly where its widths are known."""
    dense = loaded.model.arch
    if job.budget is None:
        target = job.target(dense)
    elif found is None:
        budget.offer_survey(job)
        return
    elif chosen.asks and job.budget.kind == "ms":  # its widths are timed, which the run does
        budget.show(job, loaded, found, None)
        return
    else:
        allocation = budget.allocation(job, found, loaded)
        budget.show(job, loaded, found, allocation)
        target = allocation.arch
    _estimate(cost(dense), cost(target))
    _what_if(job, loaded, target, attempt)
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
                wording.change(old, new) if new != old else None,
                delta_color="inverse",
                delta_description=f"from {written(old).partition(wording.NBSP)[0]}",
            )


def _what_if(job: Job, loaded: LoadedModel, target: Architecture, attempt: bool) -> None:
    """The accuracy to expect, measured on a few images before anything is cut."""
    key = (session.choice(), job)
    if attempt:
        with progress_bar() as progress:
            memo.remember("what-if", key, lambda: _tried(job, loaded, target, progress))
    found: tuple[Evaluation, Evaluation] | None = memo.recall("what-if", key)
    if found is not None:
        before, after = found
        likeness = f"{wording.likeness_sentence(after)} ".lstrip()
        with st.container(key="what-if"):
            st.markdown(
                f"Rough estimate: **{wording.points(before.top1, after.top1)}** of "
                f"{wording.accuracy_within(after)} before fine-tuning, {wording.percent(after.top1)} "
                f"({wording.interval(after)}) against {wording.percent(before.top1)} dense. "
                f"{likeness}The run measures it on all test images."
            )


def _tried(
    job: Job, loaded: LoadedModel, target: Architecture, progress: Progress
) -> tuple[Evaluation, Evaluation]:
    tested = session.test_set(TRY_ON)
    run = measured.prepared(job, progress)
    tried = preview(run, target, measured.scores(run))
    before = memo.remember(
        "few",
        session.choice(),
        lambda: evaluate_model(loaded, tested, "Evaluating the dense model", progress),
    )
    rough = replace(loaded, model=tried)
    return before, evaluate_model(
        rough, tested, "Evaluating the estimate", progress, dense=loaded, reference=before
    )


def _start(job: Job, loaded: LoadedModel, name: str) -> None:
    """Start the run, which goes on without this page. What is wrong with it is said now, if it can be."""
    if not job.data:
        raise session.NothingChosen("Pruning needs images to test on. Choose some in the sidebar.")
    require_feasible(job, loaded)
    measured.prepared(job)  # images that cannot be read are reported here, not minutes later by the run
    run = session_runs.begin(job)
    if name:
        session_runs.annotate(run.folder, name=name)
        form.forget_run_name()
    st.rerun()  # so that the sidebar shows it too
