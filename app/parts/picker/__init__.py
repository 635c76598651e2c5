"""A picture with cells, one of which is chosen by a click or by the arrow keys and Enter.

A chart could do the same, but would keep the browser from drawing anything else for half a second.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import streamlit as st
from PIL import Image

from app.parts.pictures import FILM_GAP, GAP, Grid, data_uri, film_columns

Cell = tuple[int, int]  # column, row

BESIDE, ABOVE = 48, 57  # pixels that titles and numbers of rows and columns take, as in picker.css

_HERE = Path(__file__).parent
_HTML = """
<div class="picker">
  <span class="top"></span><span class="left"></span><div class="columns"></div><div class="rows"></div>
  <div class="picture" role="application" tabindex="0" aria-description="Arrow keys move, Enter chooses.">
    <img alt=""><div class="marks" aria-hidden="true"></div>
    <i class="frame here" hidden></i><i class="frame chosen" hidden></i>
    <output class="said" hidden></output>
  </div>
</div>
"""
_draw = st.components.v2.component(
    "prunescope.picker",
    html=_HTML,
    css=(_HERE / "picker.css").read_text(encoding="utf-8"),
    js=(_HERE / "picker.js").read_text(encoding="utf-8"),
)


@dataclass(frozen=True, eq=False)
class Cells:
    """A picture of columns of equal cells.

    `heights` are the numbers of cells in the columns, counted from the top, and `gap` the pixels between
    cells. `label` names a cell under the pointer, with {column}, {row} and {number} in place of its numbers,
    the last counted through the rows. With `titles`, columns and rows are numbered and have these titles.
    `told` says more of each cell under the pointer, and `marks` are signs on cells; both go column by column.
    """

    picture: Image.Image
    heights: Sequence[int]
    label: str
    gap: int = 0
    titles: tuple[str, str] | None = None
    told: Sequence[Sequence[str]] = ()
    marks: Sequence[Sequence[str]] = ()


def of_patches(picture: Image.Image, rows: int, columns: int) -> Cells:
    """A photo and its patches."""
    return Cells(picture, [rows] * columns, "row {row}, column {column}")


def of_heads(grid: Grid) -> Cells:
    """The maps of all heads, blocks from left to right."""
    return Cells(grid.image, grid.heads, "block {column}, head {row}", GAP, ("block", "head"))


def of_film(picture: Image.Image, depth: int) -> Cells:
    """A film over all blocks, in rows from left to right."""
    across = film_columns(depth)
    heights = [-(-(depth - column) // across) for column in range(across)]
    return Cells(picture, heights, "after block {number}", FILM_GAP)


def of_strip(picture: Image.Image, count: int) -> Cells:
    """Photos side by side."""
    return Cells(picture, [1] * count, "photo {column}", GAP)


def show(cells: Cells, chosen: Cell | None, pick: Callable[[Cell], None], key: str, alt: str) -> None:
    """Show the picture with a frame around the chosen cell; a click calls `pick` before the page reruns.

    The browser moves the frame at once, without waiting for the rerun.
    """

    def picked() -> None:
        column, row = st.session_state[key]["picked"]
        pick((int(column), int(row)))

    _draw(key=key, data=message(cells, chosen, alt), width="stretch", on_picked_change=picked)


def keep_place(cells: Cells, key: str) -> None:
    """Keep the place of a picture with titles before the browser has it, so that nothing below it moves.

    Its height follows its width, which only the browser knows.
    """
    wide, high = cells.picture.width + BESIDE, cells.picture.height + ABOVE
    place = f"aspect-ratio: {wide:d} / {high:d}; max-width: {wide:d}px"
    st.html(f"<style>.st-key-{escape(key)} {{ {place} }}</style>")


def message(cells: Cells, chosen: Cell | None, alt: str) -> dict[str, object]:
    """What the browser is sent."""
    return {
        "source": data_uri(cells.picture),
        "width": cells.picture.width,
        "height": cells.picture.height,
        "heights": list(cells.heights),
        "gap": cells.gap,
        "chosen": chosen,
        "label": cells.label,
        "titles": cells.titles,
        "told": cells.told,
        "marks": cells.marks,
        "alt": alt,
    }
