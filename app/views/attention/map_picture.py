"""Draws maps over one image, with the marks that were asked for."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

from analysis.attention import TokenMaps
from app.parts import pictures
from app.parts.pictures import Grid, Map, Style
from app.state.viewed_image import Mask

SIDE = 280  # pixels of a picture: three beside the sidebar fit a screen of 1280
ROOM = 880, 560  # width and height in pixels of the grid of all heads
FILE_CELL = 224  # pixels of one head in the file of all heads, at most


@dataclass(frozen=True, eq=False)
class MapPicture:
    """What the model sees of an image, and how maps are drawn over it.

    `patches` are the rows and columns of patches, with lines between them if `lines`; the rim of
    `outline` is drawn, if there is one.
    """

    photo: Image.Image
    patches: tuple[int, int]
    style: Style
    lines: bool
    outline: Mask | None

    def draw(self, values: Map | None = None, side: int | None = SIDE) -> Image.Image:
        """A map over the image, or the image alone; with `side` None as large as a file wants it."""
        photo = pictures.full_size(self.photo) if side is None else pictures.enlarge(self.photo, side)
        picture = photo if values is None else pictures.overlay(photo, values, self.style)
        if self.lines:
            picture = pictures.patch_lines(picture, *self.patches)
        return picture if self.outline is None else pictures.outline(picture, self.outline)

    def grid(self, maps: TokenMaps) -> Grid:
        """The maps of all heads in one picture, as large as the page has room for."""
        return pictures.grid(self.photo, _by_head(maps), self.style, ROOM)

    def grid_file(self, maps: TokenMaps) -> Image.Image:
        """The same for a file: each map as large as the model sees the image, up to a limit."""
        tallest = min(self.photo.height, FILE_CELL) + pictures.GAP
        room = tallest * 100 * len(maps.looks), tallest * max(map(len, maps.looks))
        return pictures.grid(self.photo, _by_head(maps), self.style, room, tallest).image


def _by_head(maps: TokenMaps) -> list[list[Map]]:
    return [list(heads.numpy()) for heads in maps.looks]
