"""Models and images that runs have used, offered again."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from analysis.paths import may_be_path, user_path
from app import share, wording
from app.state import session_runs
from app.state.session import Choice
from app.views.start import opening
from pruning.jobs import Job
from pruning.wording import base_name

MOST = 4


def show() -> None:
    """A button for each of the newest few; nothing if there is none.

    Raises:
        ValueError: one that was clicked cannot be loaded any more.
    """
    found = choices()
    if not found:
        return
    st.subheader("Go on with", anchor=False)
    with st.container(horizontal=True, key="start-recent"):
        for number, chosen in enumerate(found):
            label = wording.plain(title(chosen))
            if st.button(label, icon=":material/history:", key=f"recent-{number}"):
                opening.load(chosen, "prune")


def choices() -> list[Choice]:
    """What the newest pruning runs began with, each once; the demo and what is gone are left out."""
    found: list[Choice] = []
    for run in session_runs.listed():
        job = run.job
        if not isinstance(job, Job) or job.model == "demo":
            continue
        limit = job.limit or Choice.limit
        chosen = Choice(job.model, job.weights, job.data, limit, job.reading)
        if chosen not in found and _is_there(job):
            found.append(chosen)
        if len(found) == MOST:
            break
    return found


def title(chosen: Choice) -> str:
    """Model and images without the folders that they are in."""
    named = base_name(chosen.weights or chosen.model)
    return named if chosen.data is None else f"{named}, {base_name(chosen.data)}"


def _is_there(job: Job) -> bool:
    try:
        share.require_allowed(job)
        paths = [job.data, *([job.weights] if job.weights else [])]
        paths += [job.model] if may_be_path(job.model) and "/" in job.model else []
        return all(path == "demo" or _path(path).exists() for path in paths)
    except ValueError:
        return False


def _path(spec: str) -> Path:
    return user_path(spec.removeprefix("cifar10:"))
