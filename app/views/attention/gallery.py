"""The Attention page's gallery: one head, or attention through all blocks, in several images at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import streamlit as st
from PIL import Image

from app.parts import canvas, feedback
from app.parts import wording as words
from app.parts.marks import Marks
from app.parts.pictures import Map, Style
from app.state import loaded as session
from app.state import looks as looking
from app.state import memo
from app.state.looks import Look
from app.views.attention import controls as lens
from app.views.attention.controls import BIND

COUNT = 12  # images at once
SIDE = 205  # pixels of a picture: four fit beside the sidebar
SHOWN = {"head": "One head", "flow": "Through all blocks"}


@dataclass(frozen=True)
class _Cell:
    """One image's map and its likeliest class with the probability, if the model has classes."""

    values: Map
    top: tuple[int, float] | None


def show(looks: list[Look], token: str, style: Style, marks: Marks) -> None:
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
                _picture(place, look, cell, canvas.canvas_of(look, style, marks).draw(cell.values, SIDE))


Reader = tuple[object, Callable[[Look], Map]]  # what tells it from others, and what it does


def _one_head(token: str) -> Reader:
    arch = session.model().model.arch
    read = lens.reading(arch, token)
    block, head = lens.pick_head(arch)
    return (token, block, head), lambda look: looking.seen_from(look, read).looks[block][head].numpy()


def _flow(token: str, first: Look) -> Reader:
    seen = looking.trace(first)
    flow, read = lens.pick_flow(seen), lens.reading(seen.arch, token)
    return (token, flow), lambda look: looking.flow(look, flow, read)


def _cells(looks: list[Look], key: object, read: Callable[[Look], Map]) -> list[_Cell]:
    """All maps; these are remembered, as the traces of so many images of a large model would not be."""

    def cell(look: Look) -> _Cell:
        values = read(look)
        return _Cell(values, next(iter(looking.trace(look).top(1)), None))

    found = []
    with feedback.progress_bar() as progress:
        for done, look in enumerate(looks):
            progress("Reading the images", done / len(looks))
            place = session.choice(), look.key, key
            found.append(memo.remember("gallery", place, lambda: cell(look), keep=256))  # noqa: B023
    return found


def _picture(place: int, look: Look, cell: _Cell, picture: Image.Image) -> None:
    st.image(picture, alt=f"attention in {look.name}", width="stretch")
    said = look.name
    if cell.top is not None:
        index, share = cell.top
        right = "" if look.label is None else " ✓" if index == look.label else " ✗"
        said = f"{session.class_name(index)}{right} {words.percent(share, 0)}"
    with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
        st.caption(words.plain(said), width=SIDE - 50)  # room for the button beside a long name
        st.button(
            "",
            key=f"open-{place}",
            on_click=_open,
            args=(place,),
            help=f"Open {words.plain(look.name)}",
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
