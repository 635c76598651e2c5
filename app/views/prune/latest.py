"""The newest pruning run of the loaded model on the Prune page: its progress or its result."""

from __future__ import annotations

from functools import partial

import streamlit as st

from analysis.measure import cost, paired_change
from analysis.models import Named
from app import wording
from app.parts import feedback, run_panel
from app.state import finished_runs, measured, session, session_runs
from app.state.finished_runs import NumberedRun
from pruning.bundle import zip_bundle
from pruning.jobs import Job
from pruning.runs import Run


def show(news: bool) -> None:
    """Show the run if it is news, or if it is not, so that a page can put it in another place then."""
    run, job = _newest()
    if run is None or job is None or session_runs.is_news(run) != news:
        return
    if run.state != "done":
        if news:
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


def _newest() -> tuple[Run | None, Job | None]:
    loaded = session_runs.lasting(session.choice(), copy=False)
    found = ((run, run.job) for run in session_runs.listed() if isinstance(run.job, Job))
    return next(
        ((run, job) for run, job in found if Named(job.model, job.weights, job.reading) == loaded.named),
        (None, None),
    )


def _summary(run: NumberedRun) -> None:
    finished = run.finished
    before, after = cost(finished.dense.model.arch), cost(finished.arch)
    st.markdown(f"**{wording.plain(run.title)}** · {wording.duration(finished.seconds)} · {finished.when}")
    change = paired_change(finished.before, finished.after)
    columns = st.columns(3)
    columns[0].metric(
        wording.accuracy_name(finished.after),
        wording.percent(finished.after.top1),
        wording.points(finished.before.top1, finished.after.top1),
        delta_color="off" if finished.after.top1 == finished.before.top1 else "normal",
        help=f"{wording.interval(finished.after)}. Image by image: {wording.paired_points(change)}, "
        f"{wording.by_chance(change)}. {wording.accuracy_meaning(finished.after)}",
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
    if said := wording.likeness_sentence(finished.after):
        st.caption(said)
    with st.container(horizontal=True, vertical_alignment="center"):
        _download(run)
        feedback.link("compare", "Compare before and after", ":material/compare_arrows:")
        feedback.link("recover", "Recover its accuracy", ":material/healing:")
        feedback.link("export", "Other formats", ":material/download:")


def _download(run: NumberedRun) -> None:
    """The run's bundle as it is, in the precision in which it was measured."""
    bundle = run.finished.bundle
    if bundle is not None:
        st.download_button(
            "Download the smaller model",
            partial(zip_bundle, bundle),
            file_name=f"smaller-{run.number}.zip",
            type="primary",
            icon=":material/download:",
            on_click="ignore",
            key="download-latest",
        )
