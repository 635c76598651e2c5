"""The Attention page's pictures as files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import PurePath

import streamlit as st
from PIL import Image

from analysis.attention import TokenMaps
from app.parts import pictures
from app.parts.pictures import Map
from app.views.attention.view import AttentionView


def show(view: AttentionView, shown: Mapping[str, Map], maps: TokenMaps) -> None:
    """A button for the image, for each map that is `shown`, and for the grid of all heads.

    Each is an 8-bit PNG, drawn only when its button is pressed.
    """
    picture, stem = view.picture, PurePath(view.image.name).stem
    longest = max(pictures.full_size(picture.photo).size)
    st.caption(f"8-bit PNG files, {longest} pixels on the longer side.")
    _button("The image", stem, partial(picture.draw, side=None))
    for label, values in shown.items():
        _button(label, stem, partial(picture.draw, values, None))
    _button("All heads", stem, partial(picture.grid_file, maps))


def _button(label: str, stem: str, draw: Callable[[], Image.Image]) -> None:
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
