"""The Heads page's graph of similar heads."""

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
    "cka": "Linear CKA",
    "attention": "Attention",
    "predictability": "Predictability",
}
_SYMMETRIC = (
    "It is symmetric, so without teleporting GOHSP's random walk visits each head in proportion to its "
    "degree, the sum of its similarities, and says no more than the degree does."
)
SIMILARITY_NOTES = {
    "cosine": f"The cosine between what two heads add to the residual stream. {_SYMMETRIC}",
    "cka": "How far two heads of a block tell tokens apart in the same ways, in any basis (linear CKA). "
    f"{_SYMMETRIC}",
    "attention": f"The overlap of the attention of two heads. {_SYMMETRIC}",
    "predictability": "How well the output of one head can be predicted from that of another in its block. "
    "It has a direction, so here GOHSP's random walk says more than the degree does.",
}
SCOPES = {"all": "All blocks", "block": "One block"}
PER_HEAD = 2  # edges shown for each head at the slider's first threshold
MOST_EDGES = 800  # edges drawn


def show(reading: HeadReading, heads: MarkedHeads, measure: str) -> None:
    """The graph with its options, and the heads most similar to the one that is shown."""
    st.subheader("Similar heads", anchor=False)
    with st.container(horizontal=True, vertical_alignment="bottom", key="graph-options"):
        kind = st.selectbox(
            "Similarity",
            [kind for kind in SIMILARITIES if kind in reading.alike],  # older readings lack some
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
    alt = f"graph of the heads of {where}, in which similar heads are joined"
    figure = heads_charts.graph(heads, drawing, 460)
    charts_heads.show(figure, "head-graph-plot", one_head.pick, alt, stretch=True)
    st.caption(
        f"{SIMILARITY_NOTES[kind]} Large circles are heads that are important by "
        f"{HEAD_MEASURES[measure].title}, colours are groups of similar heads, and "
        f"{wording.count(len(drawing.edges))} pairs are joined."
    )
    one_head.neighbours(heads.chosen, reading, kind)


def _threshold(reading: HeadReading, kind: str, block: int | None) -> float:
    """The similarity from which two heads are joined, at first so that each head has a few edges."""
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
        help="Heads that are at least this similar are joined.",
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
