"""A widget that chooses one of the finished runs."""

from __future__ import annotations

import streamlit as st

from app.parts import feedback
from app.state import finished_runs
from app.state.finished_runs import NumberedRun


def pick_run(key: str) -> NumberedRun | None:
    """A finished run, the newest at first; without any, says what to do."""
    found = finished_runs.numbered_runs()
    if not found:
        st.info(
            "Nothing has been pruned yet. Choose what to remove on the Prune page.",
            icon=":material/content_cut:",
        )
        feedback.link("prune", "Go to Prune", ":material/arrow_back:")
        return None
    by_key = {run.key: run for run in reversed(found)}
    newest = next(iter(by_key))
    if st.session_state.get(f"{key} seen") != newest or st.session_state.get(key) not in by_key:
        st.session_state[f"{key} seen"] = st.session_state[key] = newest  # what one wants to see
    chosen = st.selectbox(
        "Run", list(by_key), format_func=lambda name: by_key[name].title, key=key, persist_state="session"
    )
    return by_key[chosen]
