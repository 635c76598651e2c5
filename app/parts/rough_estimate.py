"""What a trial has found, in words that call it a rough estimate."""

from __future__ import annotations

from functools import partial

import streamlit as st

from analysis.measure import paired_change
from app import wording
from app.state import finished_runs, memo
from pruning.jobs import Trial, TrialJob, open_trial
from pruning.runs import Run


def found_by(run: Run) -> Trial | None:
    """The result of a trial; None where the run is no trial, is not done, or is damaged."""
    if not isinstance(run.job, TrialJob) or run.state != "done" or finished_runs.flaw(run) is not None:
        return None
    key = run.folder, finished_runs.stamp(run)
    return memo.remember("trial", key, partial(open_trial, run.folder), keep=8)


def show(trial: Trial) -> None:
    """The change of accuracy in points, on how many images, and that the run will say more."""
    change = paired_change(trial.before, trial.after)
    low, high = (f"{100 * value:+.1f}" for value in (change.low, change.high))
    likeness = f"{wording.likeness_sentence(trial.after)} ".lstrip()
    with st.container(key="rough-estimate"):
        st.markdown(
            f"Rough estimate: **{wording.points(trial.before.top1, trial.after.top1)}** of "
            f"{wording.accuracy_within(trial.after)} before fine-tuning, on {wording.count(change.images)} "
            f"test images (95 % interval {low} to {high}). {likeness}"
            "The run measures it on all test images."
        )
