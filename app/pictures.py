"""The grid of all heads as one image, and what the pages draw with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from analysis.pictures import PALETTES, Map, Style, colour, data_uri, enlarge, overlay, stretch, thumbnail

__all__ = [
    "GAP",
    "PALETTES",
    "Grid",
    "Map",
    "Style",
    "colour",
    "data_uri",
    "enlarge",
    "grid",
    "overlay",
    "scale",
    "stretch",
    "thumbnail",
]


def scale(palette: str, width: int, height: int) -> Image.Image:
    """A bar of a palette's colours from low to high."""
    ramp = np.linspace(0, 1, width, dtype=np.float32)
    return Image.fromarray(colour(np.tile(ramp, (height, 1)), palette))


@dataclass(frozen=True)
class Grid:
    """One image of many cells, and where each cell is: `cells` are (column, row)."""

    image: Image.Image
    cell: tuple[int, int]
    cells: tuple[tuple[int, int], ...]
    columns: int
    rows: int


GAP = 4  # pixels between cells


def grid(photo: Image.Image, blocks: Sequence[Sequence[Map]], style: Style, room: tuple[int, int]) -> Grid:
    """Maps of all heads as one image: blocks from left to right, heads from top to bottom.

    `room` is the width and height in pixels the grid may take.
    """
    columns, rows = len(blocks), max(len(heads) for heads in blocks)
    ratio = photo.width / photo.height
    height = min(room[1] / rows, room[0] / columns / ratio, 150) - GAP
    cell = max(16, round(height * ratio)), max(16, round(height))
    small = photo.resize(cell, Image.Resampling.LANCZOS)
    step = cell[0] + GAP, cell[1] + GAP
    image = Image.new("RGBA", (columns * step[0] - GAP, rows * step[1] - GAP))
    cells = [(column, row) for column, heads in enumerate(blocks) for row in range(len(heads))]
    for column, row in cells:
        image.paste(overlay(small, blocks[column][row], style), (column * step[0], row * step[1]))
    return Grid(image, cell, tuple(cells), columns, rows)
