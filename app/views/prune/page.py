"""The Prune page: choose what to remove, see at once what that saves, and start the run."""

from __future__ import annotations

from dataclasses import replace

import streamlit as st

from analysis.measure import Cost, Evaluation, cost, evaluate, paired_change
from analysis.models import LoadedModel, Named
from analysis.vit import Architecture
from app import wording
from app.parts import charts, feedback, run_panel
from app.progress_bar import progress_bar
from app.state import finished_runs, head_locks, measured, memo, session, session_runs
from app.state.finished_runs import NumberedRun
from app.views.prune import budget, form
from pruning.budget import Allocation
from pruning.jobs import ROUGH_IMAGES, Job, preview, require_classifier, require_feasible
from pruning.progress import Progress
from pruning.tracked import tracked

TRY_ON = 128  # test images of a what-if


def show() -> None:
    """The page."""
    loaded = session.model()
    dense = loaded.model.arch
    st.header("Prune", anchor=False)
    head_locks.from_address()
    left, right = st.columns([2, 3], gap="large")
    with left:
        job = form.job(dense)
    with right, feedback.sentences():
        allocation = budget.allocation(job, loaded) if job.budget else None
        if allocation or not job.budget:
            _chosen(job, loaded, allocation)
        _latest()
        with st.expander("The same on the command line", icon=":material/terminal:", key="command"):
            written = replace(job, data=job.data or "DATA").command()
            st.code(written, language="bash", wrap_lines=True)
    head_locks.to_address()


def _chosen(job: Job, loaded: LoadedModel, allocation: Allocation | None) -> None:
    """What the choice saves, and the buttons to try it and to start it."""
    dense = loaded.model.arch
    target = allocation.arch if allocation else job.target(dense)
    _estimate(cost(dense), cost(target))
    if allocation:
        budget.show(job, loaded, allocation)
    st.plotly_chart(charts.widths(dense, target), config=charts.CONFIG, key="widths")
    with st.container(horizontal=True, vertical_alignment="center", key="actions"):
        start = st.button("Prune", type="primary", icon=":material/content_cut:", width=200, key="prune")
        attempt = st.button(
            "Try it",
            icon=":material/science:",
            key="try",
            help=f"A rough estimate of the accuracy, on {TRY_ON} test images. What would go is masked; "
            f"a method that changes weights runs on {ROUGH_IMAGES} calibration images, without training.",
        )
    _what_if(job, loaded, target, attempt)
    if start:
        _start(job, loaded)


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
        with st.container(key="what-if"):
            st.markdown(
                f"Rough estimate: **{wording.percent(after.top1)}** top-1 before fine-tuning "
                f"({wording.interval(after)}), against {wording.percent(before.top1)} dense."
            )


def _tried(
    job: Job, loaded: LoadedModel, target: Architecture, progress: Progress
) -> tuple[Evaluation, Evaluation]:
    require_classifier(loaded)
    few = session.few_images(TRY_ON)
    run = measured.prepared(job, progress)
    tried = preview(run, target, measured.scores(run))
    before = memo.remember(
        "few",
        session.choice(),
        lambda: evaluate(loaded.model, tracked(few, loaded, "Evaluating the dense model", progress)),
    )
    return before, evaluate(tried, tracked(few, loaded, "Evaluating the estimate", progress))


def _start(job: Job, loaded: LoadedModel) -> None:
    """Start the run, which goes on without this page. What is wrong with it is said now, if it can be."""
    if not job.data:
        raise session.NothingChosen("Pruning needs images to test on. Choose some in the sidebar.")
    require_feasible(job, loaded)
    measured.prepared(job)  # images that cannot be read are reported here, not minutes later by the run
    session_runs.begin(job)
    st.rerun()  # so that the sidebar shows it too


def _latest() -> None:
    """The newest pruning run of the loaded model: its progress or its result."""
    loaded = session_runs.lasting(session.choice(), copy=False)
    found = ((run, run.job) for run in session_runs.listed() if isinstance(run.job, Job))
    run, job = next(
        ((run, job) for run, job in found if Named(job.model, job.weights, job.reading) == loaded.named),
        (None, None),
    )
    if run is None or job is None:
        return
    if run.state != "done":
        if session_runs.is_news(run):
            run_panel.panel(run, "latest-panel")
        return
    said = finished_runs.flaw(run)
    if said is not None:
        st.error(wording.plain(said), icon=":material/heart_broken:")
    for result in finished_runs.sound():
        if result.key == str(run.folder):
            measured.keep_baseline(job, result.finished.before)
            with st.container(border=True, key="latest-run"):
                _summary(result)


def _summary(run: NumberedRun) -> None:
    finished = run.finished
    before, after = cost(finished.dense.model.arch), cost(finished.arch)
    st.markdown(f"**{wording.plain(run.title)}** · {wording.duration(finished.seconds)} · {finished.when}")
    change = paired_change(finished.before, finished.after)
    columns = st.columns(3)
    columns[0].metric(
        "Top-1",
        wording.percent(finished.after.top1),
        wording.points(finished.before.top1, finished.after.top1),
        help=f"{wording.interval(finished.after)}. Image by image: {wording.paired_points(change)}, "
        f"{wording.by_chance(change)}.",
    )
    columns[1].metric(
        "Parameters",
        wording.millions(after.params),
        wording.change(before.params, after.params),
        delta_color="inverse",
    )
    columns[2].metric(
        "Compute", wording.gmacs(after.gmacs), wording.change(before.macs, after.macs), delta_color="inverse"
    )
    with st.container(horizontal=True):
        feedback.link("compare", "Compare before and after", ":material/compare_arrows:")
        feedback.link("recover", "Recover its accuracy", ":material/healing:")
        feedback.link("export", "Export it", ":material/download:")
