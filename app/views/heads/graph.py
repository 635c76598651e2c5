"""The part of the Heads page that shows which heads are alike."""

from __future__ import annotations

import streamlit as st
from torch import Tensor

from analysis.heads import SIMILARITIES, diagonal_blocks, edges, groups, layout
from app import wording
from app.parts import charts_heads
from app.state import memo
from app.views.heads import charts as heads_charts
from app.views.heads import one_head
from app.views.heads.charts import Drawing, MarkedHeads
from pruning.criteria import HEAD_MEASURES, HeadReading

SIMILARITY_TITLES = {
    "cosine": "Cosine",
    "attention": "Attention",
    "predictability": "Predictability",
}
SIMILARITY_NOTES = {
    "cosine": "How alike two heads' outputs are; it is symmetric, so without teleport the walk's mass is the "
    "plain degree and the chain adds nothing.",
    "attention": "How far two heads look at the same tokens; it is symmetric, so without teleport the walk's "
    "mass is the plain degree and the chain adds nothing.",
    "predictability": "How well one head's output follows from another's of its block; it has a direction, "
    "so here the chain says more than the degree.",
}
SCOPES = {"all": "All blocks", "block": "One block"}
PER_HEAD = 2  # edges shown for each head, at the threshold the slider begins with
MOST_EDGES = 800


def show(reading: HeadReading, heads: MarkedHeads, measure: str) -> None:
    """The graph with its options, and the neighbours of the head that is shown."""
    st.subheader("Heads that are alike", anchor=False)
    with st.container(horizontal=True, vertical_alignment="bottom", key="graph-options"):
        kind = st.selectbox(
            "Similarity",
            list(SIMILARITIES),
            format_func=SIMILARITY_TITLES.__getitem__,
            key="similarity",
            width=150,
            persist_state="session",
        )
        scope = st.segmented_control(
            "Heads of",
            list(SCOPES),
            format_func=SCOPES.__getitem__,
            default="all",
            required=True,
            key="graph-scope",
            persist_state="session",
        )
        block = heads.chosen[0] if scope == "block" else None
        threshold = _threshold(reading, kind, block)
    drawing = _drawing(reading, heads, kind, block, threshold, measure)
    where = "all blocks" if block is None else f"block {block}"
    alt = f"graph of the heads of {where}, joined where they are alike"
    figure = heads_charts.graph(heads, drawing, 460)
    charts_heads.show(figure, "head-graph-plot", one_head.pick, alt, stretch=True)
    st.caption(
        f"{SIMILARITY_NOTES[kind]} Large heads are important by {HEAD_MEASURES[measure].title}, colours are "
        f"groups of alike heads, and {wording.count(len(drawing.edges))} pairs are joined."
    )
    one_head.neighbours(heads.chosen, reading, kind)


def _threshold(reading: HeadReading, kind: str, block: int | None) -> float:
    """How alike two heads must be to be joined; begins where a few edges for each head are left."""
    weights = _part(reading, kind, block)

    def few() -> float:
        listed = edges(weights, 0.0)
        return listed[min(PER_HEAD * len(weights), len(listed)) - 1][2] if listed else 0.5

    start = memo.remember("threshold", (reading, kind, block), few, keep=64)
    value: float = st.slider(
        "Threshold",
        0.0,
        1.0,
        float(f"{start:.2f}"),
        step=0.01,
        key=f"threshold-{reading.model}-{reading.images}-{kind}-{block}",
        persist_state="session",
        width=150,
        help="Heads at least this much alike are joined.",
    )
    return value


def _part(reading: HeadReading, kind: str, block: int | None) -> Tensor:
    weights = reading.alike[kind]
    return weights if block is None else diagonal_blocks(weights, reading.counts)[block]


def _drawing(
    reading: HeadReading, heads: MarkedHeads, kind: str, block: int | None, threshold: float, measure: str
) -> Drawing:
    weights = _part(reading, kind, block)
    key = (reading, kind, block)
    members = tuple(i for i, (b, _) in enumerate(heads.names) if block in (None, b))
    return Drawing(
        members,
        memo.remember("layout", key, lambda: layout(weights), keep=64),
        [reading.values[measure][i] for i in members],
        memo.remember("groups", (*key, threshold), lambda: groups(weights, threshold), keep=64),
        memo.remember("edges", (*key, threshold), lambda: edges(weights, threshold, MOST_EDGES)),
        measure,
    )
