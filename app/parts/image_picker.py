"""Widgets that choose images: one of a set by its number, or photos of the user's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import streamlit as st

from analysis.data import EXTENSIONS
from app import wording
from app.parts import picker, pictures
from app.state import uploads
from app.state.viewed_image import ViewedImage

SIDE = 72  # pixels of a thumbnail


def pick_number(key: str, count: int, by: int = 1, bind: Any = None) -> int:
    """A number below `count`, with buttons that go `by` images back and forward."""
    if isinstance(st.session_state.get(key), int):
        st.session_state[key] = min(st.session_state[key], count - 1)

    def step(direction: int) -> None:
        st.session_state[key] = (st.session_state[key] + direction * by) % count

    st.button(
        "", icon=":material/chevron_left:", key=f"{key}-previous", on_click=step, args=(-1,), help="Previous"
    )
    number: int = st.number_input(
        f"Number, 0 to {count - 1:,}",
        0,
        count - 1,
        key=key,
        width=150,
        bind=bind,
        persist_state="session",
    )
    st.button("", icon=":material/chevron_right:", key=f"{key}-next", on_click=step, args=(1,), help="Next")
    return number


def pick_photo(photos: Sequence[ViewedImage], key: str) -> ViewedImage:
    """One of several photos, by a click on its thumbnail; its place is kept under `key`."""

    def pick(cell: picker.Cell) -> None:
        st.session_state[key] = cell[0]

    place = min(st.session_state.get(key, 0), len(photos) - 1)
    cells = picker.of_strip(pictures.strip([photo.image for photo in photos], SIDE), len(photos))
    picker.show(cells, (place, 0), pick, f"{key}-strip", "your photos; a click shows one of them")
    return photos[place]


def upload_photos(key: str) -> list[ViewedImage]:
    """A place to drop photos; returns those of the session, whichever page they were uploaded on.

    A file that cannot be read is reported in a sentence, and does not hide the others.

    Raises:
        ValueError: too many at once.
    """
    files = st.file_uploader(
        "Photos",
        type=[extension.removeprefix(".") for extension in EXTENSIONS],
        key=key,
        accept_multiple_files=True,
        max_upload_size=uploads.MAX_UPLOAD_MB["photo"],
        label_visibility="collapsed",
    )
    if files:  # none after the page was left and opened again; its photos are still wanted
        uploads.replace_photos(files)
        for problem in uploads.photo_problems():
            st.error(wording.plain(problem), icon=":material/error:")
    return uploads.photos()
