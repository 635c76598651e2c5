"""Figures of the Attention page: every format opens and shows the pictures and words it was given."""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ET
from base64 import b64decode

import numpy as np
import pytest
from PIL import Image

from app.views.attention import figure
from app.views.attention.figure import Panel
from tests.support.hostile import HOSTILE

COLOURS = ((200, 30, 30), (30, 200, 30), (30, 30, 200))


def panels() -> list[Panel]:
    pictures = [Image.new("RGB", (30, 20), colour) for colour in COLOURS]
    return [
        Panel("Image", pictures[0]),
        *(Panel(f"map {i}", one, (0.001, 0.25, "inferno")) for i, one in enumerate(pictures[1:])),
    ]


def test_a_png_shows_the_panels_in_rows() -> None:
    made = figure.compose(panels(), "A caption. " * 30, columns=2)
    page = Image.open(io.BytesIO(made.file("png")))
    assert page.size == (made.width, made.height) and round(page.info["dpi"][0]) == figure.DPI
    wide, high = figure.SIDE, round(figure.SIDE * 2 / 3)
    top = figure.MARGIN + figure.TITLE + 8
    left = figure.MARGIN + wide + figure.GAP
    below = top + high + figure.TITLE + figure.GAP + figure.BAR + figure.SMALL
    places = ((figure.MARGIN, top), (left, top), (figure.MARGIN, below))
    for colour, corner in zip(COLOURS, places, strict=True):
        crop = np.asarray(page.crop((*corner, corner[0] + wide, corner[1] + high)))
        assert (crop == colour).all()
    assert (np.asarray(page)[:8] == 255).all()


def test_a_pdf_and_a_gif_open() -> None:
    assert figure.compose(panels(), "caption").file("pdf").startswith(b"%PDF-")
    frames = [(f"block {i}", Image.new("RGB", (64, 64), colour)) for i, colour in enumerate(COLOURS)]
    film = Image.open(io.BytesIO(figure.animation(frames, 200)))
    assert getattr(film, "n_frames", 1) == 3
    assert film.info["loop"] == 0 and film.info["duration"] == 200
    for place, colour in enumerate(COLOURS):
        film.seek(place)
        pixel = np.asarray(film.convert("RGB"))[70, 32].astype(int)
        assert np.abs(pixel - colour).max() < 12
    with pytest.raises(ValueError, match="at least one frame"):
        figure.animation([])


def test_an_svg_holds_pictures_and_hostile_names_as_text() -> None:
    for name in HOSTILE:
        made = figure.compose([Panel(name, panels()[0].picture), panels()[1]], name)
        root = ET.fromstring(made.file("svg"))
        tags = {one.tag.rpartition("}")[2] for one in root.iter()}
        assert tags == {"svg", "rect", "image", "text"}
        shown = "".join(one.text or "" for one in root.iter() if one.tag.endswith("text"))
        wanted = re.sub(r"\s", "", name.replace("\n", "\\n"))
        assert wanted in re.sub(r"\s", "", shown)
    links = [one.get("href") or "" for one in root.iter() if one.tag.endswith("image")]
    assert all(link.startswith("data:image/png;base64,") for link in links) and len(links) == 3
    assert Image.open(io.BytesIO(b64decode(links[0].partition(",")[2]))).size == (560, 373)
