"""The newest pruning run of the loaded model on the Prune page: its progress or its result."""

from __future__ import annotations

from functools import partial

import streamlit as st

from analysis.models import Named
from app import wording
from app.parts import outcome, run_panel
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
            outcome.show(result, "latest-run", lead=partial(_download, result))


def _newest() -> tuple[Run | None, Job | None]:
    loaded = session_runs.lasting(session.choice(), copy=False)
    found = ((run, run.job) for run in session_runs.listed() if isinstance(run.job, Job))
    return next(
        ((run, job) for run, job in found if Named(job.model, job.weights, job.reading) == loaded.named),
        (None, None),
    )


def _download(run: NumberedRun) -> None:
    """A button for the run's bundle as it is, in the precision in which it was measured."""
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
