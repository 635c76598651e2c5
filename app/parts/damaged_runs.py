"""The runs that a page has to leave out, each with what is wrong with it."""

from __future__ import annotations

import streamlit as st

from app import wording
from app.state import finished_runs


def show(*jobs: type) -> None:
    """A row for each run of these kinds of jobs whose result is damaged; nothing if there is none."""
    found = finished_runs.damaged(*jobs)
    if found:
        st.caption(
            ":material/heart_broken: Runs with damaged files, which are left out where they are needed:"
        )
        rows = {wording.plain(title): wording.plain(said) for title, said in found.items()}
        with st.container(key="damaged"):
            st.table(rows, border="horizontal", hide_header=True)
