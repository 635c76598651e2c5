"""A widget that chooses one of the finished runs."""

from __future__ import annotations

import streamlit as st

from app.parts import feedback
from app.state import finished_runs
from app.state.finished_runs import NumberedRun


def pick_run(key: str) -> NumberedRun | None:
    """A finished run with its model, at first the newest; None if there is none, which it says."""
    found = finished_runs.with_model()
    if not found:
        feedback.nothing_pruned()
        return None
    by_key = {run.key: run for run in reversed(found)}
    newest = next(iter(by_key))
    if st.session_state.get(f"{key} seen") != newest or st.session_state.get(key) not in by_key:
        st.session_state[f"{key} seen"] = st.session_state[key] = (
            newest  # a run that is new here is shown first
        )
    chosen = st.selectbox(
        "Run", list(by_key), format_func=lambda name: by_key[name].title, key=key, persist_state="session"
    )
    return by_key[chosen]
