"""The wipe: one picture on the left of a line, another on its right. A pointer or arrow keys move it."""

from __future__ import annotations

from pathlib import Path

import streamlit as st
from PIL import Image

from app.parts.pictures import data_uri

_HERE = Path(__file__)
_HTML = """
<div class="wipe">
  <img class="after" alt=""><img class="before" alt="">
  <span class="name left"></span><span class="name right"></span>
  <i class="line"></i>
  <input type="range" min="0" max="100" value="50" step="1">
</div>
"""
_draw = st.components.v2.component(
    "prunescope.wipe",
    html=_HTML,
    css=_HERE.with_suffix(".css").read_text(encoding="utf-8"),
    js=_HERE.with_suffix(".js").read_text(encoding="utf-8"),
)


def show(before: Image.Image, after: Image.Image, names: tuple[str, str], key: str, alt: str) -> None:
    """Show both pictures with the line in the middle; the browser moves it without asking the server."""
    _draw(key=key, data=message(before, after, names, alt), width="stretch")


def message(before: Image.Image, after: Image.Image, names: tuple[str, str], alt: str) -> dict[str, object]:
    """What the browser is sent.

    Raises:
        ValueError: the pictures differ in size.
    """
    if before.size != after.size:
        raise ValueError(f"pictures of {before.size} and {after.size} pixels cannot lie over each other")
    return {
        "before": data_uri(before),
        "after": data_uri(after),
        "width": before.width,
        "height": before.height,
        "names": list(names),
        "alt": alt,
    }
