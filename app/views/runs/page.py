"""The Runs page: all runs in a table, and one of them with its result, its curves and its log."""

from __future__ import annotations

import streamlit as st

from app.parts import feedback
from app.state import address, session_runs
from app.views.runs import one_run, table, trash
from pruning import runs
from pruning.runs import Run

ALL = {"all": "All", "starred": "Starred", "active": "At work", "model": "With a model", "failed": "Failed"}


def show() -> None:
    """Draw the page."""
    with st.container(horizontal=True, vertical_alignment="center", key="runs-top"):
        st.header("Runs", anchor=False, width="stretch")
        _open_folder()
    with feedback.sentences():
        trash.show()
        found = session_runs.listed()
        if not found:
            st.info("There are no runs yet. A run begins on the Prune page.", icon=":material/content_cut:")
            feedback.link("prune", "Go to Prune", ":material/arrow_back:")
            return
        shown = _filtered(found)
        chosen = _chosen(found)
        table.show(shown, chosen)
        one_run.show(_pick(found, shown, chosen))


def _open_folder() -> None:
    with st.popover("Open a run folder", icon=":material/folder_open:", key="open"):
        path = st.text_input("Path of the run folder", key="run-path", persist_state="session")
        if st.button("Open", key="open-run"):
            with feedback.sentences():
                st.session_state["run wanted"] = str(session_runs.open_folder(path).folder)
                st.rerun()


def _filtered(found: list[Run]) -> list[Run]:
    """The runs that have every word that was typed, and are of the kind that was chosen."""
    with st.container(horizontal=True, vertical_alignment="bottom", key="runs-filter"):
        words = st.text_input(
            "Filter",
            key="runs-words",
            placeholder="a name, a method, a model, a word of a note",
            width=320,
            persist_state="session",
            icon=":material/search:",
        )
        which = address.pick("which-runs", "runs-which", list(ALL), _which)
    wanted = [run for run in found if table.is_of(run, which) and table.has_words(run, words)]
    if not wanted:
        st.caption("No run is like that.")
    return wanted


def _which() -> str | None:
    chosen: str | None = st.segmented_control(
        "Which",
        list(ALL),
        format_func=ALL.__getitem__,
        required=True,
        key="runs-which",
        label_visibility="collapsed",
        persist_state="session",
    )
    return chosen


def _chosen(found: list[Run]) -> str:
    """The key of the run to show: what was just clicked or opened, else as before, else the newest."""
    state, keys = st.session_state, [str(run.folder) for run in found]
    names = {run.name: key for run, key in zip(found, keys, strict=True)}
    given = (address.read_once("run") or [""])[0]
    if state.get("run seen") != keys[0]:  # a run that is new here, or that of the address
        state["run seen"], state["run shown"] = keys[0], names.get(given, keys[0])
    wanted = state.pop("run wanted", None)
    if wanted in keys:
        state["run shown"] = wanted
    if state.get("run shown") not in keys:
        state["run shown"] = keys[0]
    key: str = state["run shown"]
    return key


def _pick(found: list[Run], shown: list[Run], chosen: str) -> Run:
    """The run that is shown below, which a click in the table chooses as well."""
    by_key = {str(run.folder): run for run in found if run in shown or str(run.folder) == chosen}

    def show() -> None:
        st.session_state["run shown"] = st.session_state["run"]

    st.session_state["run"] = chosen  # a box forgets its value where its words change
    key = st.selectbox(
        "Run",
        list(by_key),
        format_func=lambda key: session_runs.title(by_key[key]),
        key="run",
        on_change=show,
    )
    run = by_key[key]
    inside = run.folder.parent == runs.runs_root()
    address.write("run", [run.name if inside else str(run.folder)])
    return run
