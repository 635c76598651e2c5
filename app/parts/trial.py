"""Trials on a page: the newest ones of a pruning job, and what they found, in words that call it rough."""

from __future__ import annotations

from functools import partial

import streamlit as st

from analysis.measure import cost, paired_change
from analysis.models import LoadedModel
from analysis.vit import Architecture
from app import wording
from app.parts import run_panel
from app.state import finished_runs, head_locks, memo, session_runs
from pruning.jobs import Job, Trial, TrialJob, open_trial
from pruning.runs import Run


def of_job(job: Job, loaded: LoadedModel, target: Architecture) -> None:
    """The newest trial of this job: its progress, and what the newest finished one found.

    `target` is what the job comes to now; it is said where a trial was of other widths.
    """
    known = newest(job)
    if known is not None:
        run, trial = known
        show(trial)
        _other_widths(run, loaded.model.arch, target)


def newest(job: Job) -> tuple[Run, Trial] | None:
    """The newest finished trial of this job with the loaded weights; one that is at work is shown."""
    known = _all_of(job)
    last = next(iter(known), None)
    if last is not None and last.state != "done" and session_runs.is_news(last):
        run_panel.panel(last, "trial-panel")
    done = [run for run in known if run.state == "done"]
    said = finished_runs.flaw(done[0]) if done else None
    if said is not None:
        st.error(wording.plain(said), icon=":material/heart_broken:")
    for run in done:
        trial = found_by(run)
        if trial is not None and trial.model == head_locks.model_id():
            return run, trial
    return None


def _all_of(job: Job) -> list[Run]:
    """All trials of exactly this job, newest first."""
    wanted = session_runs.lasting(job, copy=False)
    known = session_runs.listed()
    return [run for run in known if isinstance(run.job, TrialJob) and run.job.pruning == wanted]


def _other_widths(run: Run, dense: Architecture, target: Architecture) -> None:
    """Say so where the budget came to other widths when it was tried: one in ms is timed each time."""
    tried = run.job.target(dense) if run.job is not None else target
    if tried != target:
        size = wording.gmacs(cost(tried).gmacs)
        st.caption(f"It was tried at other widths, which this budget came to then: {size}.")


def found_by(run: Run) -> Trial | None:
    """What a trial found; None where the run is no trial, is not done, or is damaged."""
    if not isinstance(run.job, TrialJob) or run.state != "done" or finished_runs.flaw(run) is not None:
        return None
    key = run.folder, finished_runs.stamp(run)
    return memo.remember("trial", key, partial(open_trial, run.folder), keep=8)


def show(trial: Trial) -> None:
    """The change of accuracy in points, on how many images, and that the run itself will say more."""
    change = paired_change(trial.before, trial.after)
    points, low, high = wording.signed_points(change)
    likeness = f"{wording.likeness_sentence(trial.after)} ".lstrip()
    with st.container(key="rough-estimate"):
        st.markdown(
            f"Rough estimate: **{points} points** of "
            f"{wording.accuracy_within(trial.after)} before fine-tuning, on {wording.count(change.images)} "
            f"test images (95 % interval {low} to {high}). {likeness}"
            "The pruning run measures it on all test images."
        )
