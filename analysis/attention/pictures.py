"""Render maps as pictures: heat maps, overlays, thumbnails."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from analysis.head_grid import head_grid
from analysis.models import Preprocess
from analysis.vit import Architecture

Map = NDArray[np.float32]  # Y X

# Evenly spaced samples of matplotlib's colour maps, from low to high.
PALETTES: dict[str, tuple[str, ...]] = {
    "inferno": ("000004", "280b53", "65156e", "9f2a63", "d44842", "f57d15", "fac228", "fcffa4"),
    "magma": ("000004", "221150", "5f187f", "982d80", "d3436e", "f8765c", "febb81", "fcfdbf"),
    "viridis": ("440154", "46327e", "365c8d", "277f8e", "1fa187", "4ac16d", "a0da39", "fde725"),
    "turbo": ("30123b", "4675ed", "1bcfd4", "61fc6c", "d1e834", "fe9b2d", "d93806", "7a0402"),
    "grey": ("000000", "ffffff"),
}


@dataclass(frozen=True)
class Style:
    """How a map is drawn: `opacity` 1 hides the photo, `smooth` interpolates between patches."""

    palette: str = "inferno"
    opacity: float = 0.6
    smooth: bool = True


def stretch(values: Map) -> Map:
    """Rescale a map so that its lowest value becomes 0 and its highest 1; a constant map becomes 0."""
    low, high = values.min(), values.max()
    return (values - low) / (high - low) if high > low else np.zeros_like(values)


def colour(values: Map, palette: str) -> NDArray[np.uint8]:
    """Map values from 0 to 1 to colours, Y X 3."""
    return _table(palette)[np.rint(values * (_SHADES - 1)).astype(np.intp)]


_SHADES = 1024  # finer than 8-bit colours can show


@cache
def _table(palette: str) -> NDArray[np.uint8]:
    """Lookup table of a palette, low to high: far faster than interpolating for every pixel."""
    anchors = np.array([list(bytes.fromhex(anchor)) for anchor in PALETTES[palette]])
    places, shades = np.linspace(0, 1, len(anchors)), np.linspace(0, 1, _SHADES)
    channels = [np.interp(shades, places, anchors[:, channel]) for channel in range(3)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)


def overlay(photo: Image.Image, values: Map, style: Style) -> Image.Image:
    """Blend a map over its photo, at the photo's size."""
    plane = Image.fromarray(stretch(values).astype(np.float32))
    method = Image.Resampling.BICUBIC if style.smooth else Image.Resampling.NEAREST
    full = np.asarray(plane.resize(photo.size, method)).clip(0, 1)
    return Image.blend(photo, Image.fromarray(colour(full, style.palette)), style.opacity)


def enlarge(photo: Image.Image, longest: int) -> Image.Image:
    """Scale an image so that its longer side has `longest` pixels."""
    factor = longest / max(photo.size)
    size = round(photo.width * factor), round(photo.height * factor)
    method = Image.Resampling.LANCZOS if factor < 3 else Image.Resampling.BICUBIC
    return photo.resize(size, method)


def covered(photo: Image.Image, preprocess: Preprocess, arch: Architecture) -> Image.Image:
    """The part of a photo that the model's patches cover, at the model's resolution."""
    (rows, columns), (high, wide) = arch.grid, arch.patch_size
    return preprocess.crop(photo).crop((0, 0, columns * wide, rows * high))


def thumbnail(photo: Image.Image, preprocess: Preprocess, side: int = 112) -> Image.Image:
    """A small picture of the part of a photo that the model sees."""
    return enlarge(preprocess.crop(photo), side)


def sheet(
    photo: Image.Image,
    blocks: Sequence[Sequence[Map | None]],
    room: int,
    largest: int,
    style: Style = Style(),
) -> Image.Image:
    """Maps of all heads as one image, blocks from left to right, heads from top to bottom; None is blank.

    The image is at most `room` pixels wide, each map at most `largest`.
    """
    gap = 2
    wide = max(1, min(largest, room // len(blocks) - gap))
    return tiled(photo, blocks, (wide, max(1, round(wide * photo.height / photo.width))), gap, style)


def tiled(
    photo: Image.Image,
    blocks: Sequence[Sequence[Map | None]],
    cell: tuple[int, int],
    gap: int,
    style: Style,
) -> Image.Image:
    """Maps of `cell` pixels over the photo: blocks from left to right, heads from top to bottom.

    Between the maps and where there is none, the picture is transparent.
    """
    small = photo.resize(cell, Image.Resampling.LANCZOS)
    wide, high, grid = cell[0] + gap, cell[1] + gap, head_grid(blocks, None)
    image = Image.new("RGBA", (len(blocks) * wide - gap, len(grid) * high - gap))
    for row, heads in enumerate(grid):
        for column, values in enumerate(heads):
            if values is not None:
                image.paste(overlay(small, values, style), (column * wide, row * high))
    return image


def data_uri(image: Image.Image) -> str:
    """An image as a data URI, for a chart's background or an HTML page; WebP keeps photos small."""
    content = BytesIO()
    image.save(content, format="WEBP", quality=88, method=0)  # 0 is fastest: the user is waiting
    return "data:image/webp;base64," + b64encode(content.getvalue()).decode()
