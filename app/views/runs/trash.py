"""The Runs page's trash: what was just deleted can be taken back at once, and the rest from a list."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from app import share
from app.parts import feedback
from app.state import session_runs
from app.wording import count, describe, plain
from pruning import runs
from pruning.runs import Run

JUST = "just deleted"


def show() -> None:
    """The run that was just deleted with a button to undo that, and the list of all that can be restored."""
    found = runs.deleted()
    kept = {str(run.folder) for run in found}
    folder, title = st.session_state.get(JUST, ("", ""))
    if folder in kept:
        with st.container(horizontal=True, vertical_alignment="center", border=True, key="undo"):
            st.markdown(f":material/delete: **{plain(title)}** was deleted.", width="stretch")
            st.button("Undo", icon=":material/undo:", key="undo-delete", on_click=_restore, args=(folder,))
    others = [run for run in found if str(run.folder) != folder]
    if not others:
        return
    with st.expander(f"Deleted runs ({count(len(others))})", icon=":material/delete:", key="trash"):
        for place, run in enumerate(others):
            with st.container(horizontal=True, vertical_alignment="center"):
                words = run.name if run.job is None else describe(run.job)
                called = " · ".join(filter(None, (run.note.name, words, run.name)))
                st.markdown(plain(called), width="stretch")
                key = f"restore-{place}"
                st.button("Restore", key=key, on_click=_restore, args=(str(run.folder),))
        if not share.is_shared():
            st.button(
                "Delete all of these for good",
                icon=":material/delete_forever:",
                key="empty-trash",
                on_click=_forget,
                args=(others,),
            )


def _restore(folder: str) -> None:
    with feedback.sentences():
        st.session_state["run wanted"] = str(session_runs.restore(Path(folder)).folder)
        if st.session_state.get(JUST, ("",))[0] == folder:
            del st.session_state[JUST]


def _forget(gone: list[Run]) -> None:
    with feedback.sentences():
        session_runs.forget(gone)
