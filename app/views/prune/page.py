"""Page 4: choose what goes, see at once what it saves, and cut."""

from __future__ import annotations

from dataclasses import fields, replace

import streamlit as st

from analysis.measure.cost import Cost, cost
from analysis.measure.evaluate import Evaluation, evaluate
from analysis.models.load import LoadedModel
from analysis.vit import Architecture
from app.parts import charts, feedback, run_panel
from app.parts import wording as words
from app.state import finished as results
from app.state import head_locks as decisions
from app.state import loaded as session
from app.state import measured, memo
from app.state import runs as work
from app.state.finished import Run
from app.views.prune import budget as budgets
from app.views.prune import form as controls
from pruning.budget.allocate import Allocation
from pruning.criteria.registry import Criterion
from pruning.cut.surgery import mask
from pruning.jobs.inputs import image_sets, require_classifier, tracked
from pruning.jobs.prune import choose, make_smaller
from pruning.jobs.prune_job import Job
from pruning.methods import METHODS
from pruning.options import Value
from pruning.progress import Progress

TRY_ON = 128  # test images of a what-if
TRY_FROM = 64  # calibration images of a method that is carried out, not masked, to be tried


def show() -> None:
    """The page."""
    loaded = session.model()
    dense = loaded.model.arch
    st.header("Prune", anchor=False)
    decisions.from_address()
    left, right = st.columns([2, 3], gap="large")
    with left:
        job = controls.job(dense)
    with right, feedback.sentences():
        allocation = budgets.allocation(job, loaded) if job.budget else None
        if allocation or not job.budget:
            _chosen(job, loaded, allocation)
        _latest()
        with st.expander("The same on the command line", icon=":material/terminal:", key="command"):
            written = replace(job, data=job.data or "DATA").command()
            st.code(written, language="bash", wrap_lines=True)
    decisions.to_address()


def _chosen(job: Job, loaded: LoadedModel, allocation: Allocation | None) -> None:
    """What the choice saves, and what can be done with it."""
    dense = loaded.model.arch
    target = allocation.arch if allocation else job.target(dense)
    _estimate(cost(dense), cost(target))
    if allocation:
        budgets.show(job, loaded, allocation)
    st.plotly_chart(charts.widths(dense, target), config=charts.CONFIG, key="widths")
    with st.container(horizontal=True, vertical_alignment="center", key="actions"):
        start = st.button("Prune", type="primary", icon=":material/content_cut:", width=200, key="prune")
        attempt = st.button(
            "Try it",
            icon=":material/science:",
            key="try",
            help=f"Masks what would go and measures the accuracy on {TRY_ON} test images; a method that "
            f"changes weights is carried out on {TRY_FROM} calibration images, without training.",
        )
    _what_if(job, loaded, target, attempt)
    if start:
        _start(job, loaded)


def _estimate(before: Cost, after: Cost) -> None:
    figures = (
        ("Parameters", before.params, after.params, words.count),
        ("Compute", before.macs, after.macs, words.gmacs_of),
        ("Size, float32", before.bytes, after.bytes, words.megabytes),
    )
    with st.container(key="estimate"):
        for column, (label, old, new, written) in zip(st.columns(3), figures, strict=True):
            column.metric(
                label,
                written(new),
                words.change(old, new) if new != old else None,
                delta_color="inverse",
                delta_description=f"from {written(old).partition(words.NBSP)[0]}",
            )


def _what_if(job: Job, loaded: LoadedModel, target: Architecture, attempt: bool) -> None:
    """Accuracy on a few images, before anything is cut."""
    key = (session.choice(), job)
    if attempt:
        with feedback.progress_bar() as progress:
            memo.remember("what-if", key, lambda: _tried(job, loaded, target, progress))
    found: tuple[Evaluation, Evaluation] | None = memo.recall("what-if", key)
    if found is not None:
        before, after = found
        with st.container(key="what-if"):
            st.markdown(
                f"Tried: **{words.percent(after.top1)}** top-1 before fine-tuning "
                f"({words.interval(after)}), against {words.percent(before.top1)} dense."
            )


def _tried(
    job: Job, loaded: LoadedModel, target: Architecture, progress: Progress
) -> tuple[Evaluation, Evaluation]:
    require_classifier(loaded)
    few = session.few_images(TRY_ON)
    rewrites = job.compensate or job.heads_by or not isinstance(METHODS[job.method], Criterion)
    if rewrites:  # more than a mask: it is done, on fewer images
        tried, _ = make_smaller(_rough(job), loaded, image_sets(job, loaded)[0], progress, target)
    else:
        arch = loaded.model.arch
        plan = choose(job, arch, job.locks.plan(arch), measured.scores(job, progress), target)
        tried = mask(loaded.model, plan)
    before = memo.remember(
        "few",
        session.choice(),
        lambda: evaluate(loaded.model, tracked(few, loaded, "Evaluating the dense model", progress)),
    )
    return before, evaluate(tried, tracked(few, loaded, "Evaluating the try", progress))


def _rough(job: Job) -> Job:
    """The same on few images, and without training."""
    known = {option.name for option in fields(METHODS[job.method].options)}
    wanted: dict[str, Value] = {"images": TRY_FROM, "epochs": 0}
    fixed = {name: value for name, value in wanted.items() if name in known}
    kept = tuple((name, value) for name, value in job.options if name not in fixed)
    return replace(job, options=(*kept, *fixed.items()))


def _start(job: Job, loaded: LoadedModel) -> None:
    """Begin the run, which goes on without this page; what is known to be wrong is said at once."""
    if not job.data:
        raise session.NothingChosen("Pruning needs images to test on. Pick some in the sidebar.")
    require_classifier(loaded)
    dense = loaded.model.arch
    if job.budget is None and job.target(dense) == dense:
        raise ValueError("nothing to remove: set at least one ratio above 0, or name a preset or a budget")
    image_sets(job, loaded)
    work.begin(job)
    st.rerun()  # so that the sidebar shows it too


def _latest() -> None:
    """The newest pruning run of the loaded model: how far it is, or what came of it."""
    loaded = work.lasting(session.choice(), copy=False)
    found = ((run, run.job) for run in work.listed() if isinstance(run.job, Job))
    run, job = next(
        ((run, job) for run, job in found if (job.model, job.weights) == (loaded.model, loaded.weights)),
        (None, None),
    )
    if run is None or job is None:
        return
    if run.state != "done":
        if work.is_news(run):
            run_panel.panel(run, "latest-panel")
        return
    for result in results.runs():
        if result.key == str(run.folder):
            measured.keep_baseline(job, result.outcome.before)
            with st.container(border=True, key="latest-run"):
                _summary(result)


def _summary(run: Run) -> None:
    outcome = run.outcome
    before, after = cost(outcome.dense.model.arch), cost(outcome.arch)
    st.markdown(f"**{run.title}** · {outcome.seconds:.1f} s · {outcome.when}")
    columns = st.columns(3)
    columns[0].metric(
        "Top-1",
        words.percent(outcome.after.top1),
        words.points(outcome.before.top1, outcome.after.top1),
        help=words.interval(outcome.after),
    )
    columns[1].metric(
        "Parameters",
        words.millions(after.params),
        words.change(before.params, after.params),
        delta_color="inverse",
    )
    columns[2].metric(
        "Compute", words.gmacs(after.gmacs), words.change(before.macs, after.macs), delta_color="inverse"
    )
    with st.container(horizontal=True):
        feedback.link("compare", "Compare before and after", ":material/compare_arrows:")
        feedback.link("recover", "Recover its accuracy", ":material/healing:")
        feedback.link("export", "Export it", ":material/download:")
