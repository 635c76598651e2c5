"""Widgets that choose an image: by number, or one of the user's own."""

from __future__ import annotations

from typing import Any

import streamlit as st
from PIL import Image

from analysis.data import EXTENSIONS, read_image
from app.state import uploads
from app.state.viewed_image import ViewedImage

MAX_PHOTOS = 16
KEPT_SIDE = 1536  # pixels of an own photo, three times what the largest model takes


def pick_number(key: str, count: int, by: int = 1, bind: Any = None) -> int:
    """A number below `count` with buttons that go back and on `by` so many."""
    if isinstance(st.session_state.get(key), int):
        st.session_state[key] = min(st.session_state[key], count - 1)

    def step(way: int) -> None:
        st.session_state[key] = (st.session_state[key] + way * by) % count

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


def upload() -> list[ViewedImage]:
    """A place for photos of one's own; those of the session.

    Raises:
        BadImageError: one cannot be read.
        ValueError: too many at once.
    """
    given = st.file_uploader(
        "Photos",
        type=[extension.removeprefix(".") for extension in EXTENSIONS],
        key="photo",
        accept_multiple_files=True,
        max_upload_size=uploads.MAX_UPLOAD_MB["photo"],
        label_visibility="collapsed",
    )
    if len(given) > MAX_PHOTOS:
        raise ValueError(f"at most {MAX_PHOTOS} photos are shown at once, got {len(given)}: take some away")
    kept: dict[str, ViewedImage] = st.session_state.get("own photos", {})
    if given:  # none: the page was left and opened again, and its photos are still wanted
        kept = {file.file_id: kept.get(file.file_id) or _photo(file) for file in given}
        st.session_state["own photos"] = kept
    return list(kept.values())


def _photo(file: Any) -> ViewedImage:
    image = read_image(file, file.name)
    image.thumbnail((KEPT_SIDE, KEPT_SIDE), Image.Resampling.LANCZOS)
    return ViewedImage(file.name, image, None, file.file_id)
