"""One run: what became of it, what people say of it, its curves, its log, and the same as a command."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from app.parts import feedback, outcome, run_panel, trial
from app.state import finished_runs, session_runs
from app.wording import plain
from pruning import runs
from pruning.jobs import BenchJob, HeadsJob
from pruning.runs import Run

RESULTS = {BenchJob: ("compare", "See the latency"), HeadsJob: ("heads", "See the heads")}


def show(run: Run) -> None:
    """Draw everything about one run."""
    _actions(run)
    if run.note.text:
        st.markdown(f":material/notes: {plain(run.note.text)}")
    run_panel.panel(run, "run-panel")
    with feedback.sentences():
        _result(run)
    run_panel.curves(run)
    left, right = st.columns(2, gap="medium")
    with left:
        st.subheader("Log", anchor=False)
        with st.container(key="log"):
            run_panel.log(run)
    if run.job is not None:
        with right:
            st.subheader("The same on the command line", anchor=False)
            with st.container(key="run-command"):
                st.code(run_panel.commands(run), language="bash", wrap_lines=True)
            st.caption(f"Folder of the run: {plain(run.name)}")


def _result(run: Run) -> None:
    found = next((one for one in finished_runs.sound() if one.key == str(run.folder)), None)
    tried = trial.found_by(run)
    if found is not None:
        outcome.show(found, "run-outcome")
    elif tried is not None:
        trial.show(tried)
    elif run.state == "done" and type(run.job) in RESULTS:
        page, label = RESULTS[type(run.job)]
        feedback.link(page, label, ":material/arrow_forward:")


# ---- naming, noting, starring, deleting


def _actions(run: Run) -> None:
    with st.container(horizontal=True, vertical_alignment="center", key="run-actions"):
        star = run.note.star
        st.button(
            "Starred" if star else "Star",
            icon=":material/star:" if star else ":material/star_outline:",
            key="run-star",
            on_click=_annotate,
            args=(run.folder,),
            kwargs={"star": not star},
        )
        with st.popover("Name and note", icon=":material/edit:", key="run-note"):
            _fields(run)
        st.button(
            "Delete",
            icon=":material/delete:",
            key="run-delete",
            on_click=_delete,
            args=(run.folder,),
            disabled=run.active,
            help="It goes to the trash first, from where it can be restored."
            if not run.active
            else "A run at work cannot be deleted: cancel it first.",
        )


def _fields(run: Run) -> None:
    """The name and the note; what is typed is kept at once."""
    name, text = (f"{field} of {run.folder}" for field in ("name", "note"))
    st.session_state.setdefault(name, run.note.name)
    st.session_state.setdefault(text, run.note.text)

    def keep() -> None:
        said = {"name": " ".join(st.session_state[name].split()), "text": st.session_state[text].strip()}
        _annotate(run.folder, **said)

    st.text_input("Name", key=name, max_chars=runs.LONGEST_NAME, on_change=keep, placeholder="half the heads")
    st.text_area("Note", key=text, max_chars=runs.LONGEST_TEXT, on_change=keep, height=120)
    st.caption("Shown on every page where the run is. Kept in the folder of the run.")


def _annotate(folder: Path, **changes: object) -> None:
    with feedback.sentences():
        session_runs.annotate(folder, **changes)


def _delete(folder: Path) -> None:
    with feedback.sentences():
        title = session_runs.title(runs.read(folder))
        st.session_state["just deleted"] = (str(session_runs.delete(folder).folder), title)
