"""The Heads page's grids: a criterion's value of every head as a colour, to be clicked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import streamlit as st
from PIL import Image

from analysis.head_grid import by_block
from app.parts import picker, pictures
from app.parts.picker import Cells
from app.views.heads.charts import MarkedHeads
from app.views.heads.one_head import UNITS, pick
from pruning.criteria import HEAD_MEASURES

PALETTE = "viridis"
ROOM = 464, 400  # pixels of the large grid
SMALL = 168  # pixels of the width of a small one: five stand beside the sidebar
LARGEST = 52  # pixels from one head to the next, at most
GAPS = 3, 1  # pixels between heads of the large grid, of a small one


def large(heads: MarkedHeads, measure: str, values: Sequence[float]) -> None:
    """One criterion for every head, with the numbers of blocks and heads and a colour scale."""
    columns, rows = heads.size
    step = round(min(ROOM[0] / columns, ROOM[1] / rows, LARGEST))
    cells = grid(heads, measure, values, step, GAPS[0], ("block", "head"))
    title = HEAD_MEASURES[measure].title
    alt = f"{title} of all heads, blocks from left to right, heads from top to bottom"
    with st.container(key="importance"):
        picker.keep_place(cells, "importance-grid")
        picker.show(cells, heads.chosen, pick, "importance-grid", alt)
        _scale(measure, values)


def small(heads: MarkedHeads, values: Mapping[str, Sequence[float]]) -> None:
    """Every criterion as a small grid of its own, with the ends of its own scale."""
    step = max(4, SMALL // heads.size[0])
    with st.container(horizontal=True, gap="small", key="all-importance"):
        for measure, row in values.items():
            title = HEAD_MEASURES[measure].title
            with st.container(width=SMALL, gap="xsmall"):
                st.markdown(title)
                cells = grid(heads, measure, row, step, GAPS[1])
                alt = f"{title} of all heads, blocks from left to right"
                picker.show(cells, heads.chosen, pick, f"importance-{measure}", alt)
                st.caption(" to ".join(_ends(measure, row)))


def grid(
    heads: MarkedHeads,
    measure: str,
    values: Sequence[float],
    step: int,
    gap: int,
    titles: tuple[str, str] | None = None,
) -> Cells:
    """A square of each head, `step` pixels from one to the next; bright heads are important."""
    columns, rows = heads.size
    counts = [sum(block == column for block, _ in heads.names) for column in range(columns)]
    picture = Image.new("RGBA", (columns * step - gap, rows * step - gap))
    for (block, head), shade in zip(heads.names, _shades(measure, values), strict=True):
        left, top = block * step, head * step
        picture.paste(tuple(shade), (left, top, left + step - gap, top + step - gap))
    return Cells(
        picture,
        counts,
        "block {column}, head {row}",
        gap,
        titles,
        told=by_block([_number(measure, value) for value in values], counts),
        marks=by_block(heads.marks, counts),
    )


def _shades(measure: str, values: Sequence[float]) -> list[list[int]]:
    """The colour of each head: the brightest is the most important, or has the highest value."""
    ranked = np.array(values, dtype=np.float32) * (-1 if _turned(measure) else 1)
    shades: list[list[int]] = pictures.colour(pictures.stretch(ranked), PALETTE).tolist()
    return shades


def _turned(measure: str) -> bool:
    """Whether low values are important."""
    return HEAD_MEASURES[measure].important < 0


def _ends(measure: str, values: Sequence[float]) -> tuple[str, str]:
    """What the darkest and the brightest colour stand for."""
    low, high = min(values), max(values)
    dark, bright = (high, low) if _turned(measure) else (low, high)
    return f"{dark:.3g}", _number(measure, bright)


def _number(measure: str, value: float) -> str:
    return f"{value:.3g} {UNITS.get(measure, '')}".rstrip()


def _scale(measure: str, values: Sequence[float]) -> None:
    dark, bright = _ends(measure, values)
    with st.container(horizontal=True, vertical_alignment="center", gap="xsmall", key="importance-scale"):
        st.caption(dark, width="content")
        scale = pictures.scale(PALETTE, 120, 10)
        st.image(scale, alt="colour scale from the darkest to the brightest", width=120)
        st.caption(bright, width="content")
