"""The Heads page: how important every head is, which are similar, and locks for pruning."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from analysis.heads import head_names, spearman
from app.glossary import meaning
from app.parts import charts, damaged_runs, feedback, image_picker, run_panel
from app.state import address, head_locks, head_readings, memo, session, session_runs
from app.state.head_readings import KnownReading
from app.state.viewed_image import ViewedImage
from app.views.heads import charts as heads_charts
from app.views.heads import graph, grids, one_head
from app.views.heads.charts import MarkedHeads
from app.views.heads.one_head import pick
from pruning.criteria import HEAD_MEASURES, HeadReading
from pruning.cut import Head
from pruning.jobs import HeadsJob

ADDRESS = ("heads-block", "heads-head", "criterion")


def show() -> None:
    """Draw the page."""
    st.header("Heads", anchor=False, help=meaning("Head", "Criterion", "Calibration images"))
    _from_address()
    photos = image_picker.upload_photos("heads-photos") if session.choice().data is None else []
    known = _known(photos)
    reading, head = known.reading, one_head.chosen()
    heads = MarkedHeads(head_names(session.model().model.arch), head, head_locks.locks())
    left, right = st.columns([3, 2], gap="large")
    with left:
        measure = _importance(reading, heads)
        _locks()
    with right:
        st.subheader(f"Block {head[0]}, head {head[1]}", anchor=False)
        one_head.controls(head)
        one_head.numbers(head, reading)
    left, right = st.columns([3, 2], gap="large")
    with left:
        st.subheader("Where it looks", anchor=False)
        one_head.maps(head, photos)
    with right:
        st.subheader("Without it", anchor=False)
        one_head.what_if(head)
    left, right = st.columns([3, 2], gap="large")
    with left:
        graph.show(reading, heads, measure)
    with right:
        _agreement(reading, measure)
    _overview(reading, heads)
    damaged_runs.show(HeadsJob)
    _to_address(head, measure)


# ---- measures


def _known(photos: Sequence[ViewedImage]) -> KnownReading:
    """The measures to show, with a sentence on where they come from and a way to measure more."""
    if session.choice().data is None:
        if not photos:
            raise session.NothingChosen(
                "Upload photos to see where the heads look in them, or pick labelled images in the sidebar."
            )
        known = head_readings.of_photos(list(photos))
        st.caption(known.source)
        return known
    newest = head_readings.newest()
    if newest is not None and newest.state != "done" and session_runs.is_news(newest):
        run_panel.panel(newest, "heads-panel")
    known = head_readings.measured() or head_readings.quick()
    with st.container(horizontal=True, vertical_alignment="center", key="heads-source"):
        st.caption(known.source, width="content")
        begun = st.session_state.get("heads runs begun", 0)  # under another key it is another one, and closed
        with (
            st.container(key="measure", width="content"),
            st.popover(
                "Measure",
                icon=":material/speed:",
                key=f"measure-{begun}",
                type="secondary" if known.complete else "primary",
            ),
        ):
            _measure(known)
    return known


def _measure(known: KnownReading) -> None:
    """Start a run that computes every measure."""
    images = st.number_input(
        "Calibration images",
        1,
        4096,
        HeadsJob.images,
        step=16,
        key="heads-measured-on",
        persist_state="session",
        help="More images take longer. You may leave this page while the run is active.",
    )
    job = head_readings.job(images)
    again = "Measure again" if known.complete else "Measure all criteria"
    if st.button(again, type="primary", icon=":material/speed:", key="measure-heads"):
        session_runs.begin(job)
        st.session_state["heads runs begun"] = st.session_state.get("heads runs begun", 0) + 1
        st.rerun()  # so that the sidebar shows the run, too
    if not session.model().model.arch.num_classes:
        st.caption("Without a classifier the loss is how far the features move.")
    run_panel.command(job.command())


def _from_address() -> None:
    """Show what the address asks for, once in a session."""
    head_locks.from_address()
    block, head, criterion = (address.read_once(name) or [""] for name in ADDRESS)
    if block[0].isdecimal() and head[0].isdecimal():
        pick((int(block[0]), int(head[0])))
    if criterion[0] in HEAD_MEASURES:
        st.session_state["criterion"] = criterion[0]


def _to_address(head: Head, measure: str) -> None:
    head_locks.to_address()
    for name, value in zip(ADDRESS, (*head, measure), strict=True):
        address.write(name, [str(value)])


# ---- importance


def _importance(reading: HeadReading, heads: MarkedHeads) -> str:
    """The large grid of one criterion, which is returned."""
    if st.session_state.get("criterion") not in (None, *reading.values):
        del st.session_state["criterion"]
    measure: str = st.selectbox(
        "Criterion",
        list(reading.values),
        format_func=lambda name: HEAD_MEASURES[name].title,
        key="criterion",
        persist_state="session",
    )
    entry = HEAD_MEASURES[measure]
    bright = (
        "Bright heads are important." if entry.important else "It does not rank heads; bright means high."
    )
    st.caption(f"{entry.explanation} {bright} Click a head to choose it; it is framed in red.")
    grids.large(heads, measure, reading.values[measure])
    missing = [each.title for name, each in HEAD_MEASURES.items() if name not in reading.values]
    if missing:
        st.caption(f"Not measured, as labels are needed: {', '.join(missing)}.")
    return measure


def _locks() -> None:
    """All locks, with a button that clears them and a link to the page that obeys them."""
    said = head_locks.sentence()
    with st.container(horizontal=True, vertical_alignment="center", key="decided"):
        if not said:
            st.caption("No head is locked yet, so every method is free to choose which heads to remove.")
            return
        st.markdown(f":material/lock: {said}.", width="content")
        st.button("Clear", key="clear-locks", on_click=head_locks.clear)
        feedback.link("prune", "Prune", ":material/content_cut:")


def _overview(reading: HeadReading, heads: MarkedHeads) -> None:
    st.subheader("All criteria", anchor=False)
    st.caption(
        "Each has its own scale. Bright heads are important, or just have high values where a criterion "
        "does not rank."
    )
    grids.small(heads, reading.values)


# ---- agreement


def _agreement(reading: HeadReading, measure: str) -> None:
    st.subheader("Agreement", anchor=False)
    if len(heads := reading.values[measure]) < 2:
        st.caption("A single head cannot be ranked.")
        return
    st.caption(f"Spearman's rank correlation over all {len(heads)} heads; 1 means the same order.")
    found = memo.remember(
        "agreement",
        reading,
        lambda: spearman({name: reading.importance(name) for name in reading.values}),
        keep=4,
    )
    alt = "rank correlation of each pair of criteria"
    st.plotly_chart(heads_charts.agreement(found, measure), config=charts.CONFIG, key="agreement", alt=alt)
