"""The Attention page's gallery: one head, or attention through all blocks, in several images at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import streamlit as st
from PIL import Image

from app import wording
from app.parts import map_picture
from app.parts.marks import Marks
from app.parts.pictures import Map, Style
from app.progress_bar import progress_bar
from app.state import memo, session, viewed_image
from app.state.viewed_image import ViewedImage
from app.views.attention import controls
from app.views.attention.controls import BIND

COUNT = 12  # images at once
SIDE = 205  # pixels of a picture: four fit beside the sidebar
SHOWN = {"head": "One head", "flow": "Through all blocks"}


@dataclass(frozen=True)
class _Cell:
    """One image's map and its likeliest class with the probability, if the model has classes."""

    values: Map
    top: tuple[int, float] | None


def show(looks: list[ViewedImage], token: str, style: Style, marks: Marks) -> None:
    """Pictures side by side; each can be opened by itself."""
    what = st.segmented_control(
        "Shown",
        list(SHOWN),
        format_func=SHOWN.__getitem__,
        default="head",
        required=True,
        key="gallery",
        label_visibility="collapsed",
        bind=BIND,
        persist_state="session",
    )
    with st.container(width=600, key="gallery-options"):
        key, read = _one_head(token) if what == "head" else _flow(token, looks[0])
    cells = _cells(looks, key, read)
    with st.container(horizontal=True, gap="small", key="gallery-pictures"):
        for place, (look, cell) in enumerate(zip(looks, cells, strict=True)):
            with st.container(width=SIDE, gap="xsmall"):
                _picture(
                    place, look, cell, map_picture.map_picture_of(look, style, marks).draw(cell.values, SIDE)
                )


Reader = tuple[object, Callable[[ViewedImage], Map]]  # what tells it from others, and what it does


def _one_head(token: str) -> Reader:
    arch = session.model().model.arch
    read = controls.reading(arch, token)
    block, head = controls.pick_head(arch)
    return (token, block, head), lambda look: viewed_image.seen_from(look, read).looks[block][head].numpy()


def _flow(token: str, first: ViewedImage) -> Reader:
    seen = viewed_image.trace(first)
    flow, read = controls.pick_flow(seen), controls.reading(seen.arch, token)
    return (token, flow), lambda look: viewed_image.flow(look, flow, read)


def _cells(looks: list[ViewedImage], key: object, read: Callable[[ViewedImage], Map]) -> list[_Cell]:
    """All maps; these are remembered, as the traces of so many images of a large model would not be."""

    def cell(look: ViewedImage) -> _Cell:
        values = read(look)
        return _Cell(values, next(iter(viewed_image.trace(look).top(1)), None))

    found = []
    with progress_bar() as progress:
        for done, look in enumerate(looks):
            progress("Reading the images", done / len(looks))
            place = session.choice(), look.key, key
            found.append(memo.remember("gallery", place, lambda: cell(look), keep=256))  # noqa: B023
    return found


def _picture(place: int, look: ViewedImage, cell: _Cell, picture: Image.Image) -> None:
    st.image(picture, alt=f"attention in {look.name}", width="stretch")
    said = look.name
    if cell.top is not None:
        index, share = cell.top
        right = "" if look.label is None else " ✓" if index == look.label else " ✗"
        said = f"{session.class_name(index)}{right} {wording.percent(share, 0)}"
    with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
        st.caption(wording.plain(said), width=SIDE - 50)  # room for the button beside a long name
        st.button(
            "",
            key=f"open-{place}",
            on_click=_open,
            args=(place,),
            help=f"Open {wording.plain(look.name)}",
            type="tertiary",
            icon=":material/open_in_full:",
        )


def _open(place: int) -> None:
    """Show one of the pictures by itself."""
    state = st.session_state
    if state["image-from"] == "photo":
        state["photo-number"] = place
    else:
        state["image"] = (state["image"] + place) % len(session.images())
    state["view"] = "one"
