"""The table of all runs; a click on a row shows that run below."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import pandas as pd
import streamlit as st

from analysis.measure import paired_change
from app import wording
from app.parts import run_panel
from app.state import finished_runs, session_runs
from pruning import runs
from pruning.runs import Run, is_finished

ROW, TALLEST = 35, 12  # pixels of a row, rows before the table scrolls
STATES = {"starred": (), "active": ("queued", "running"), "failed": ("failed", "interrupted", "cancelled")}


# ---- filters


def is_of(run: Run, which: str) -> bool:
    """Whether a run is of one of the kinds that can be chosen."""
    if which == "starred":
        return run.note.star
    if which == "model":
        return is_finished(run)
    if which == "failed" and finished_runs.flaw(run) is not None:
        return True
    return which == "all" or run.state in STATES[which]


def has_words(run: Run, words: str) -> bool:
    """Whether every word stands in the name, the title, the note or the model of a run, in any case."""
    text = " ".join((session_runs.title(run), run.note.text, run_panel.model_name(run), run.state, run.name))
    return all(word in text.casefold() for word in words.casefold().split())


# ---- the table


def show(shown: Sequence[Run], chosen: str) -> None:
    """Draw the table, which is read again while a run in it is at work."""
    if shown:
        active = any(run.active for run in shown)
        session_runs.polled(_table, list(shown), chosen, every=session_runs.POLL if active else None)


def _table(shown: list[Run], chosen: str) -> None:
    if st.session_state.pop("run clicked", False):
        st.rerun()  # the whole page, as the run is shown outside of this table
    rows = [_row(runs.read(run.folder) if run.active else run) for run in shown]
    frame = pd.DataFrame(rows)
    frame = frame[[name for name in frame if name == "State" or frame[name].astype(bool).any()]]
    keys = [str(run.folder) for run in shown]
    marked = [keys.index(chosen)] if chosen in keys else []
    key = _key(keys, marked)

    def clicked() -> None:
        places = st.session_state[key]["selection"]["rows"]
        if places:
            st.session_state["run wanted"], st.session_state["run clicked"] = keys[places[0]], True

    with st.container(key="all-runs"):
        st.dataframe(
            frame,
            hide_index=True,
            column_config=COLUMNS,
            height=ROW * (min(len(rows), TALLEST) + 1) + 3,
            row_height=ROW,
            key=key,
            on_select=clicked,
            selection_mode="single-row",
            selection_default={"selection": {"rows": marked}},
            alt="all runs",
        )


def _key(keys: Sequence[str], marked: list[int]) -> str:
    """The table's key: a new one for other runs, and where the run that it marks is not the one shown.

    A table tells its rows by their place, and cannot be told which one to mark after it was drawn.
    """
    state, name = st.session_state, f"runs-table-{hash(tuple(keys)):x}"
    turn = state.setdefault("runs-table turn", 0)
    drawn = state.get(f"{name}-{turn}")
    if drawn is not None and list(drawn["selection"]["rows"]) != marked:
        state["runs-table turn"] = turn = turn + 1
    return f"{name}-{turn}"


COLUMNS: dict[str, Any] = {
    "★": st.column_config.TextColumn("★", width=32),
    "✎": st.column_config.TextColumn("✎", width=32, help="It has a note, which is shown with the run."),
    "Name": st.column_config.TextColumn(width=140),
    "Top-1": st.column_config.TextColumn(width=62, help="Accuracy of the smaller model on its test images."),
    "k-NN top-1": st.column_config.TextColumn(
        width=96,
        help="Of a model without a classifier: share of its test images that the nearest images of a gallery "
        "vote into the right class.",
    ),
    "Same nearest neighbour": st.column_config.TextColumn(
        width=168,
        help="Of a model without a classifier, on images without classes: share of them whose nearest image "
        "is the dense model's.",
    ),
    "Change": st.column_config.TextColumn(
        width=86, help="Of that share against the dense model. In brackets where chance could explain it."
    ),
    "Compute": st.column_config.TextColumn(width=72, help="Against the dense model."),
    "What": st.column_config.TextColumn(width=174),
    "Progress": st.column_config.TextColumn(width=200),
    "Note": None,  # these two stand below, with the run that is shown
    "Folder": None,
}


def _row(run: Run) -> dict[str, str]:
    said = finished_runs.flaw(run)
    number = session_runs.number(run)
    return {
        "★": "★" if run.note.star else "",
        "Run": run.name if number is None else runs.label(number, ""),
        "✎": "✎" if run.note.text.strip() else "",
        "Name": run.note.name,
        "What": session_runs.words(run),
        **_figures(run, said),
        "State": "damaged" if said else run.state,
        "Model": run_panel.model_name(run),
        "Progress": said or ("" if run.state == "done" and not run.error else run.sentence),
        "Started": when(run),
        "Took": wording.duration(run.seconds),
        "Note": " ".join(run.note.text.split()),
        "Folder": run.name,
    }


def _figures(run: Run, said: str | None) -> dict[str, str]:
    """Accuracy, under the name of what was measured, and compute of a run that left a sound model.

    All of them are empty for other runs; the table leaves out what is empty in every row.
    """
    names = (*wording.ACCURACY.values(), "Change", "Compute")
    if said is not None or not is_finished(run):
        return dict.fromkeys(names, "")
    finished = finished_runs.opened(run)
    change = paired_change(finished.before, finished.after)
    points = wording.points(finished.before.top1, finished.after.top1)
    before, after = finished.report.gmacs_before, finished.report.gmacs_after
    return dict.fromkeys(names, "") | {
        wording.ACCURACY[finished.after.measure]: wording.percent(finished.after.top1),
        "Change": points if change.beyond_chance else f"({points})",
        "Compute": wording.change(before, after) if before and after else "",
    }


def when(run: Run) -> str:
    """When a run was created, in local time."""
    try:
        return time.strftime("%d %b %H:%M", time.localtime(run.status.created))
    except (OverflowError, ValueError, OSError):  # the file of a run can say anything
        return "unknown"
