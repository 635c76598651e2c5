"""Trying what is chosen on the Prune page: a run estimates the accuracy, and its result is found again."""

from __future__ import annotations

import streamlit as st

from analysis.measure import cost
from analysis.models import LoadedModel
from analysis.vit import Architecture
from app import wording
from app.parts import rough_estimate, run_panel
from app.state import finished_runs, head_locks, measured, session, session_runs
from pruning.jobs import Job, TrialJob, require_feasible
from pruning.runs import Run

NO_WIDTHS = "A budget is tried at the widths that are found for it: measure the sensitivities first."


def start(job: Job, loaded: LoadedModel, target: Architecture) -> None:
    """Start a trial of this architecture. What is wrong with it is said now, if it can be.

    Raises:
        NothingChosen: there are no images.
        ValueError: the job cannot be carried out, or its images cannot be read.
    """
    if not job.data:
        raise session.NothingChosen("A trial needs images to test on. Choose some in the sidebar.")
    require_feasible(job, loaded)
    measured.prepared(job)
    session_runs.begin(TrialJob.of(job, target))
    st.rerun()  # so that the sidebar shows it too


def show(job: Job, loaded: LoadedModel, target: Architecture) -> None:
    """The newest trial of this job: its progress, and what the newest finished one has found."""
    known = _trials(job)
    newest = next(iter(known), None)
    if newest is not None and newest.state != "done" and session_runs.is_news(newest):
        run_panel.panel(newest, "trial-panel")
    done = [run for run in known if run.state == "done"]
    said = finished_runs.flaw(done[0]) if done else None
    if said is not None:
        st.error(wording.plain(said), icon=":material/heart_broken:")
    for run in done:
        trial = rough_estimate.found_by(run)
        if trial is not None and trial.model == head_locks.model_id():
            rough_estimate.show(trial)
            _other_widths(run, loaded.model.arch, target)
            return


def _trials(job: Job) -> list[Run]:
    """All trials of exactly this job, newest first."""
    wanted = session_runs.lasting(job, copy=False)
    return [
        run for run in session_runs.listed() if isinstance(run.job, TrialJob) and run.job.pruning == wanted
    ]


def _other_widths(run: Run, dense: Architecture, target: Architecture) -> None:
    """Say so where the budget came to other widths when it was tried: times of a machine vary."""
    tried = run.job.target(dense) if run.job is not None else target
    if tried != target:
        size = wording.gmacs(cost(tried).gmacs)
        st.caption(f"It was tried at other widths, which this budget came to then: {size}.")
