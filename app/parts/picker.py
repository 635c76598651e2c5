"""A picture whose cells can be chosen, by a click or by the arrow keys and Enter.

A chart could do it too, but takes the browser half a second to draw, in which nothing else appears.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import streamlit as st
from PIL import Image

from app.parts.pictures import GAP, Grid, data_uri

Cell = tuple[int, int]  # column, row

_HERE = Path(__file__)
_HTML = """
<div class="picker">
  <span class="top"></span><span class="left"></span><div class="columns"></div><div class="rows"></div>
  <div class="picture" role="application" tabindex="0" aria-description="Arrow keys move, Enter chooses.">
    <img alt="">
    <i class="frame here" hidden></i><i class="frame chosen" hidden></i>
    <output class="said" hidden></output>
  </div>
</div>
"""
_draw = st.components.v2.component(
    "prunescope.picker",
    html=_HTML,
    css=_HERE.with_suffix(".css").read_text(encoding="utf-8"),
    js=_HERE.with_suffix(".js").read_text(encoding="utf-8"),
)


@dataclass(frozen=True, eq=False)
class Cells:
    """A picture of cells of one size: how many each column has from the top, and the pixels between them.

    `said` tells what a cell is; {column} and {row} stand for its place. `titles` are those of the columns
    and of the rows where they are numbered.
    """

    picture: Image.Image
    heights: Sequence[int]
    said: str
    gap: int = 0
    titles: tuple[str, str] | None = None


def of_patches(picture: Image.Image, rows: int, columns: int) -> Cells:
    """A photo and its patches."""
    return Cells(picture, [rows] * columns, "row {row}, column {column}")


def of_heads(grid: Grid) -> Cells:
    """The maps of all heads, blocks from left to right."""
    return Cells(grid.image, grid.heads, "block {column}, head {row}", GAP, ("block", "head"))


def show(cells: Cells, chosen: Cell | None, pick: Callable[[Cell], None], key: str, alt: str) -> None:
    """Draw it with the chosen cell framed; `pick` is told of a click before the page runs again.

    The browser moves the frame at once, and need not wait for that run.
    """

    def picked() -> None:
        column, row = st.session_state[key]["picked"]
        pick((int(column), int(row)))

    _draw(key=key, data=told(cells, chosen, alt), width="stretch", on_picked_change=picked)


def told(cells: Cells, chosen: Cell | None, alt: str) -> dict[str, object]:
    """What the browser is told."""
    return {
        "source": data_uri(cells.picture),
        "width": cells.picture.width,
        "height": cells.picture.height,
        "heights": list(cells.heights),
        "gap": cells.gap,
        "chosen": chosen,
        "said": cells.said,
        "titles": cells.titles,
        "alt": alt,
    }
