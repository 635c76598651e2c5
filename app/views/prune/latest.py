"""The newest pruning run of the loaded model on the Prune page: its progress or its result.

One that was cancelled or failed left none: then the last result is still shown.
"""

from __future__ import annotations

from functools import partial

import streamlit as st

from analysis.models import Named
from app import wording
from app.parts import outcome, run_panel
from app.state import finished_runs, measured, session, session_runs
from app.state.finished_runs import NumberedRun
from app.state.session import Choice
from pruning.bundle import zip_bundle
from pruning.jobs import Job
from pruning.runs import Run


def show(news: bool) -> None:
    """Show what is news, or what is not, so that a page can put it in another place then."""
    found = _of_loaded()
    if not found:
        return
    newest = found[0]
    if session_runs.is_news(newest) == news:
        said = finished_runs.flaw(newest)
        if said is not None:
            st.error(wording.plain(said), icon=":material/heart_broken:")
        elif news and newest.state != "done":
            run_panel.panel(newest, "latest-panel")
    if newest.active:
        return
    last = next((run for run in found if run.state == "done" and finished_runs.flaw(run) is None), None)
    if last is None or session_runs.is_news(last) != news:
        return
    for result in finished_runs.sound():
        if result.key == str(last.folder) and isinstance(last.job, Job):
            measured.keep_baseline(last.job, result.finished.before)
            outcome.show(result, "latest-run", lead=partial(_download, result))


def _of_loaded() -> list[Run]:
    """The pruning runs of the loaded model, newest first."""
    loaded: Choice = session_runs.lasting(session.choice(), copy=False)
    found = ((run, run.job) for run in session_runs.listed())
    return [run for run, job in found if isinstance(job, Job) and _model(job) == loaded.named]


def _model(job: Job) -> Named:
    return Named(job.model, job.weights, job.reading)


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
