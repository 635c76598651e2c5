"""Draws maps over one image, with the marks that were asked for, on the page and as files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import PurePath
from typing import Any

import streamlit as st
from PIL import Image

from analysis.attention import TokenMaps
from app.parts import pictures
from app.parts.marks import Marks
from app.parts.pictures import Grid, Map, Style
from app.state import session, viewed_image
from app.state.viewed_image import Mask, ViewedImage

SIDE = 280  # pixels of a picture: three and the sidebar fit a screen of 1280
ROOM = 880, 560  # pixels of the grid
FILE_CELL = 224  # pixels of one head in the file of all heads, at most


@dataclass(frozen=True, eq=False)
class MapPicture:
    """What the model sees of an image, and how maps are drawn over it; `mask` where it is outlined."""

    photo: Image.Image
    patches: tuple[int, int]
    style: Style
    lines: bool
    mask: Mask | None

    def draw(self, values: Map | None = None, side: int | None = SIDE) -> Image.Image:
        """A map over the image, or the image alone; `side` None: at full size."""
        large = pictures.full_size(self.photo) if side is None else pictures.enlarge(self.photo, side)
        picture = large if values is None else pictures.overlay(large, values, self.style)
        if self.lines:
            picture = pictures.patch_lines(picture, *self.patches)
        return picture if self.mask is None else pictures.outline(picture, self.mask)

    def grid(self, maps: TokenMaps) -> Grid:
        """All heads in one picture, as large as the page has room for."""
        return pictures.grid(self.photo, _planes(maps), self.style, ROOM)

    def file_of_grid(self, maps: TokenMaps) -> Image.Image:
        """All heads in one picture, each as large as the model sees the image, up to a limit."""
        tallest = min(self.photo.height, FILE_CELL) + pictures.GAP
        room = tallest * 100 * len(maps.looks), tallest * max(map(len, maps.looks))
        return pictures.grid(self.photo, _planes(maps), self.style, room, tallest).image


def map_picture_of(look: ViewedImage, style: Style, marks: Marks) -> MapPicture:
    """The canvas of an image under the loaded model."""
    mask = viewed_image.covered_mask(look) if marks.outline else None
    return MapPicture(viewed_image.cropped(look), session.model().model.arch.grid, style, marks.lines, mask)


def _planes(maps: TokenMaps) -> list[list[Map]]:
    return [list(heads.numpy()) for heads in maps.looks]


def downloads(
    place: Any, name: str, canvas: MapPicture, shown: Mapping[str, Map | None], maps: TokenMaps
) -> None:
    """A button for each picture, as an 8-bit PNG at full size; it is drawn when the button is pressed."""
    stem = PurePath(name).stem
    with place:
        longest = max(pictures.full_size(canvas.photo).size)
        st.caption(f"PNG of 8 bits, {longest} pixels at the longest side.")
        for label, values in shown.items():
            _file(label, stem, partial(canvas.draw, values, None))
        _file("All heads", stem, partial(canvas.file_of_grid, maps))


def _file(label: str, stem: str, draw: Callable[[], Image.Image]) -> None:
    slug = label.casefold().replace(" ", "-")
    st.download_button(
        label,
        lambda: pictures.png(draw()),
        file_name=f"{stem}-{slug}.png",
        mime="image/png",
        key=f"file-{slug}",
        icon=":material/image:",
        width="stretch",
        on_click="ignore",
    )
