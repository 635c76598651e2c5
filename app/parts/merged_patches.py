"""Which patches of a photo have become one token: a large picture, and a film over all blocks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import streamlit as st
from PIL import Image

from analysis.attention import Members, members_behind
from analysis.models import LoadedModel
from analysis.vit import Architecture
from app.parts import picker, pictures
from app.state import memo, viewed_image
from app.state.viewed_image import ViewedImage
from pruning.cut import with_architecture, with_merges

SIDE, ROOM = 210, 590  # pixels: width of the large picture, and of the film beside it
LEGEND = (
    "Each outlined region is one token, drawn in its mean colour; all other patches are still tokens by "
    "themselves."
)


def show(model: LoadedModel, photo: ViewedImage, schedule: int | Sequence[int]) -> None:
    """What merging by a schedule makes of a photo: after the last block, and as a film after each.

    `schedule` is how many patch tokens each block merges: one number for all that can, or one for each. The
    model's own merging does not count.

    Raises:
        ValueError: a schedule that the model cannot have.
    """
    merges = schedule if isinstance(schedule, int) else tuple(schedule)
    arch = with_merges(model.model.arch, merges)

    def make() -> tuple[Image.Image, Image.Image]:
        behind = members_behind(with_architecture(model.model, arch), model.preprocess(photo.image))
        crop = viewed_image.cropped(photo, model)
        large = pictures.merged_picture(pictures.enlarge(crop, SIDE), behind[-1], arch)
        return large, pictures.film(crop, behind, arch, ROOM)

    large, film = memo.remember("merged patches", (model, photo.key, arch.tokens), make)
    with st.container(horizontal=True, key="merged-preview"):
        _image(large, f"{photo.name} after the last block")
        with st.container():
            _image(film, f"{photo.name} after each block, with merged patches in their mean colour")
            st.caption(f"{LEGEND} {count(arch, arch.depth - 1)}")


def film(
    photo: Image.Image,
    behind: Sequence[Members | None],
    arch: Architecture,
    block: int,
    pick: Callable[[int], None],
) -> None:
    """The film of a model that merges, with a frame around one block; a click calls `pick` with a block."""
    sheet, across = pictures.film(photo, behind, arch, ROOM), pictures.film_columns(arch.depth)
    picker.show(
        picker.of_film(sheet, arch.depth),
        (block % across, block // across),
        lambda cell: pick(cell[1] * across + cell[0]),
        key="merged-film",
        alt="merged patches after every block, first block first",
    )


def count(arch: Architecture, block: int) -> str:
    """A sentence on how many tokens are left of the patches after a block."""
    patches, prefix = arch.grid[0] * arch.grid[1], len(arch.prefix_names)
    left = arch.num_tokens - sum(widths.merge for widths in arch.blocks[: block + 1]) - prefix
    return f"After block {block}, {left} tokens are left of {patches} patches."


def _image(picture: Image.Image, alt: str) -> None:
    # inside the page's own message, so that the browser need not ask for it
    st.image(pictures.data_uri(picture), alt=alt, width=picture.width)
