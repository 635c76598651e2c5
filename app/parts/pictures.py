"""Pictures that the pages show: the grid of all heads, lines between patches, outlines, PNG files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageOps

from analysis.attention import (
    FILM_GAP,
    PALETTES,
    Map,
    Style,
    colour,
    data_uri,
    enlarge,
    film,
    film_columns,
    merged_picture,
    overlay,
    stretch,
    thumbnail,
    tiled,
)

__all__ = [
    "FILM_GAP",
    "GAP",
    "PALETTES",
    "Grid",
    "Map",
    "Style",
    "colour",
    "data_uri",
    "enlarge",
    "film",
    "film_columns",
    "full_size",
    "grid",
    "merged_picture",
    "outline",
    "overlay",
    "patch_lines",
    "png",
    "scale",
    "stretch",
    "strip",
    "thumbnail",
]


def scale(palette: str, width: int, height: int) -> Image.Image:
    """A bar with the colours of a palette from low to high."""
    ramp = np.linspace(0, 1, width, dtype=np.float32)
    return Image.fromarray(colour(np.tile(ramp, (height, 1)), palette))


@dataclass(frozen=True)
class Grid:
    """One picture of the maps of all heads: how large a map is, and how many each block has."""

    image: Image.Image
    cell: tuple[int, int]
    heads: tuple[int, ...]


GAP = 4  # pixels between maps


def grid(
    photo: Image.Image,
    blocks: Sequence[Sequence[Map]],
    style: Style,
    room: tuple[int, int],
    tallest: int = 150,
) -> Grid:
    """The maps of all heads in one picture: blocks from left to right, heads from top to bottom.

    `room` is the width and height in pixels that the picture may take, `tallest` the height of a map
    and its gap at most.
    """
    heads = tuple(map(len, blocks))
    ratio = photo.width / photo.height
    height = min(room[1] / max(heads), room[0] / len(blocks) / ratio, tallest) - GAP
    cell = max(16, round(height * ratio)), max(16, round(height))
    return Grid(tiled(photo, blocks, cell, GAP, style), cell, heads)


def patch_lines(picture: Image.Image, rows: int, columns: int) -> Image.Image:
    """The picture with thin lines between its patches."""
    lined, size = picture.copy(), picture.size
    pen = ImageDraw.Draw(lined, "RGBA")
    for column in range(1, columns):
        at = round(column * size[0] / columns)
        pen.line([(at, 0), (at, size[1])], fill=(255, 255, 255, 110))
    for row in range(1, rows):
        at = round(row * size[1] / rows)
        pen.line([(0, at), (size[0], at)], fill=(255, 255, 255, 110))
    return lined


def outline(picture: Image.Image, mask: NDArray[np.bool_]) -> Image.Image:
    """The picture with the mask's outline in white on black, visible on any background."""
    shape = Image.fromarray(mask).convert("L").resize(picture.size, Image.Resampling.BICUBIC)
    inside = shape.point([0] * 128 + [255] * 128)
    drawn = picture.copy()
    for ink, reach in (("black", 5), ("white", 3)):
        rim = ImageChops.subtract(inside.filter(ImageFilter.MaxFilter(reach)), inside)
        drawn.paste(ink, mask=rim)
    return drawn


def strip(photos: Sequence[Image.Image], side: int) -> Image.Image:
    """Photos side by side with gaps of `GAP` pixels, each the middle of it as a square of `side` pixels."""
    row = Image.new("RGBA", (len(photos) * (side + GAP) - GAP, side))
    for place, photo in enumerate(photos):
        row.paste(ImageOps.fit(photo.convert("RGB"), (side, side)), (place * (side + GAP), 0))
    return row


def png(picture: Image.Image) -> bytes:
    """An 8-bit PNG file."""
    content = BytesIO()
    picture.save(content, format="PNG")
    return content.getvalue()


def full_size(photo: Image.Image, longest: int = 1024) -> Image.Image:
    """The photo scaled by the largest whole number that keeps its longer side within `longest` pixels."""
    return enlarge(photo, max(photo.size) * max(1, longest // max(photo.size)))
