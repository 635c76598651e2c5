"""Pictures of which patches of an image have become one token."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from analysis.attention.capture import capture
from analysis.attention.tokens import Members, of_first
from analysis.vit import Architecture, ViT

_LINE = 255, 255, 255
_ABSENT = 138, 150, 144, 48  # faint in both themes
FILM_GAP = 4  # pixels between the pictures of a film
_ACROSS = 6  # pictures of a film in a row, at most


def members_behind(model: ViT, image: Float[Tensor, "C Y X"]) -> tuple[Members | None, ...]:
    """The members of one image behind every block. Blocks after the last one that merges are not run."""
    arch = model.arch
    last = max((index for index, block in enumerate(arch.blocks) if block.merge), default=-1)
    found: list[Members | None] = [None] * arch.depth
    with capture(model) as record:
        for block in islice(record(image[None]), last + 1):
            found[block.index :] = [of_first(block.left)] * (arch.depth - block.index)
    return tuple(found)


def merged_picture(photo: Image.Image, members: Members | None, arch: Architecture) -> Image.Image:
    """A photo in which the patches of every token that has merged have their mean colour and an outline.

    `photo` is the part that the patches cover, at any size. Patches that are tokens by themselves stay.
    """
    if members is None:
        return photo
    tokens, alone = _by_pixel(photo.size, members, arch)
    pixels = np.asarray(photo.convert("RGB"), dtype=np.float32)
    counts = np.bincount(tokens.ravel(), minlength=len(alone)).clip(1)
    means = np.stack(
        [
            np.bincount(tokens.ravel(), band.ravel(), len(alone)) / counts
            for band in np.moveaxis(pixels, -1, 0)
        ],
        axis=-1,
    )
    filled = np.where(alone[tokens][..., None], pixels, means[tokens]).round().astype(np.uint8)
    filled[_outlines(tokens, alone, max(1, max(photo.size) // 250))] = _LINE
    return Image.fromarray(filled)


def film(
    photo: Image.Image, behind: Sequence[Members | None], arch: Architecture, room: int, largest: int = 150
) -> Image.Image:
    """The pictures behind all blocks, numbered, in rows from left to right.

    The whole is at most `room` pixels wide, one picture at most `largest`. A block without attention, which
    cannot merge, is a blank.
    """
    gap, across = FILM_GAP, film_columns(arch.depth)
    rows = -(-arch.depth // across)
    wide = max(16, min(largest, (room + gap) // across - gap))
    high = max(16, round(wide * photo.height / photo.width))
    sheet = Image.new("RGBA", (across * (wide + gap) - gap, rows * (high + gap) - gap))
    sharp = photo.resize((2 * wide, 2 * high), Image.Resampling.LANCZOS)
    for index, members in enumerate(behind):
        place = index % across * (wide + gap), index // across * (high + gap)
        if arch.blocks[index].heads:
            cell = merged_picture(sharp, members, arch).resize((wide, high), Image.Resampling.BOX)
        else:
            cell = Image.new("RGBA", (wide, high), _ABSENT)
        sheet.paste(cell, place)
        _number(sheet, index, place)
    return sheet


def film_columns(depth: int) -> int:
    """How many pictures of a film stand side by side: rows are as even as they can be."""
    return -(-depth // -(-depth // _ACROSS))


def _by_pixel(
    size: tuple[int, int], members: Members, arch: Architecture
) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """The token of every pixel, and whether a token is a single patch."""
    (wide, high), (rows, columns) = size, arch.grid
    grid = members.token[len(arch.prefix_names) :].view(arch.grid).cpu().numpy()
    down, along = np.arange(high) * rows // high, np.arange(wide) * columns // wide
    return grid[down[:, None], along], (members.sizes < 1.5).cpu().numpy()


def _outlines(tokens: NDArray[np.intp], alone: NDArray[np.bool_], width: int) -> NDArray[np.bool_]:
    """The pixels of merged regions that lie within `width` of another token, or of the picture's edge."""
    merged = ~alone[tokens]
    padded = np.pad(tokens, width, constant_values=-1)
    high, wide = tokens.shape
    shifts = [(width, 0), (width, 2 * width), (0, width), (2 * width, width)]  # along, against, down, up
    shifts += [(0, 0), (0, 2 * width), (2 * width, 0), (2 * width, 2 * width)]  # corners
    near = [padded[y : y + high, x : x + wide] != tokens for y, x in shifts]
    return merged & np.logical_or.reduce(near)


def _number(sheet: Image.Image, index: int, place: tuple[int, int]) -> None:
    pen, text = ImageDraw.Draw(sheet), f"{index}"
    font = ImageFont.load_default(size=11)
    pen.rectangle((*place, place[0] + 6 + round(font.getlength(text)), place[1] + 14), fill=(23, 35, 31))
    pen.text((place[0] + 3, place[1] + 1), text, fill="white", font=font)
