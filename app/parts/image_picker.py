"""Widgets that choose images: one of a set by its number, or photos of the user's own."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

import streamlit as st

from analysis.data import EXTENSIONS
from app import wording
from app.parts import picker, pictures
from app.parts.keys import keys
from app.state import uploads
from app.state.viewed_image import ViewedImage

SIDE = 72  # pixels of a thumbnail


def pick_number(
    key: str, count: int, by: int = 1, bind: Any = None, among: Sequence[int] | None = None
) -> int:
    """A number below `count`, with buttons that go `by` images back and forward.

    With `among`, rising numbers of which there is at least one, no other number is gone to.
    """
    places = range(count) if among is None else among
    now = st.session_state.get(key)
    if isinstance(now, int) and now not in places:
        st.session_state[key] = places[min(bisect_left(places, now), len(places) - 1)]

    def step(direction: int) -> None:
        place = bisect_left(places, st.session_state[key])
        st.session_state[key] = places[(place + direction * by) % len(places)]

    keys.offer({keys.PREVIOUS: lambda: step(-1), keys.NEXT: lambda: step(1)})
    st.button(
        "", icon=":material/chevron_left:", key=f"{key}-previous", on_click=step, args=(-1,), help="Previous"
    )
    number: int = st.number_input(
        f"Number, 0 to {count - 1:,}",
        0,
        count - 1,
        places[0] if among else 0,
        key=key,
        width=150,
        bind=bind,
        persist_state="session",
    )
    st.button("", icon=":material/chevron_right:", key=f"{key}-next", on_click=step, args=(1,), help="Next")
    return number if number in places else places[0]


def pick_photo(photos: Sequence[ViewedImage], key: str) -> ViewedImage:
    """One of several photos, by a click on its thumbnail; its place is kept under `key`."""

    def pick(cell: picker.Cell) -> None:
        st.session_state[key] = cell[0]

    place = min(st.session_state.get(key, 0), len(photos) - 1)
    around = [(place + by) % len(photos) for by in (-1, 1)]
    keys.offer({keys.PREVIOUS: lambda: pick((around[0], 0)), keys.NEXT: lambda: pick((around[1], 0))})
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
        keep_photos(files)
    return uploads.photos()


def keep_photos(files: Sequence[Any]) -> int:
    """Keep photos that were dropped for all pages, and say which cannot be read; the number of the others.

    Raises:
        ValueError: too many at once.
    """
    uploads.replace_photos(files)
    for problem in uploads.photo_problems():
        st.error(wording.plain(problem), icon=":material/error:")
    return len(uploads.photos())
