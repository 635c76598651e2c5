"""The Attention page's pictures as files: each by itself, all of them as one figure, the blocks as a film."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import PurePath

import streamlit as st
from PIL import Image

from analysis.attention import TokenMaps
from app import wording
from app.parts import pictures
from app.parts.pictures import Map
from app.views.attention import figure
from app.views.attention.figure import Panel
from app.views.attention.queries import Query
from app.views.attention.view import AttentionView
from pruning.wording import base_name

FRAME = 512  # pixels of a picture in the animation


def show(view: AttentionView, shown: Mapping[str, Map], maps: TokenMaps, query: Query) -> None:
    """Buttons for the image, for each map that is `shown`, for the grid of all heads, and for all together.

    Each file is drawn only when its button is pressed.
    """
    picture, stem = view.picture, PurePath(view.image.name).stem
    st.markdown("**This view as one figure**")
    figure_buttons(stem, partial(_figure, view, shown, query), "figure")
    st.download_button(
        "Block after block, GIF",
        partial(_film, view, maps, query),
        file_name=f"{stem}-blocks.gif",
        mime="image/gif",
        key="file-film",
        icon=":material/animation:",
        width="stretch",
        on_click="ignore",
        help="Where the token looks in each block, as the mean over its heads.",
    )
    longest = max(pictures.full_size(picture.photo).size)
    st.markdown("**Single pictures**")
    st.caption(f"8-bit PNG files, {longest} pixels on the longer side.")
    _button("The image", stem, partial(picture.draw, side=None))
    for label, values in shown.items():
        _button(label, stem, partial(picture.draw, values, None))
    _button("All heads", stem, partial(picture.grid_file, maps))


def figure_buttons(stem: str, make: Callable[[], figure.Figure], key: str) -> None:
    """A button for each format of a figure."""
    with st.container(horizontal=True, gap="small"):
        for kind, mime in figure.FORMATS.items():
            st.download_button(
                kind.upper(),
                partial(_file, make, kind),
                file_name=f"{stem}-{key}.{kind}",
                mime=mime,
                key=f"{key}-{kind}",
                on_click="ignore",
            )


def _file(make: Callable[[], figure.Figure], kind: str) -> bytes:
    return make().file(kind)


def _button(label: str, stem: str, draw: Callable[[], Image.Image]) -> None:
    slug = label.casefold().replace(" ", "-")
    st.download_button(
        wording.plain(_title(label)),
        lambda: pictures.png(draw()),
        file_name=f"{stem}-{slug}.png",
        mime="image/png",
        key=f"file-{slug}",
        icon=":material/image:",
        width="stretch",
        on_click="ignore",
    )


def _figure(view: AttentionView, shown: Mapping[str, Map], query: Query) -> figure.Figure:
    """The photo, the maps that are shown, and what they are."""
    picture = view.picture
    panels = [Panel("Image", picture.draw(side=None))]
    panels += [
        map_panel(_title(title), picture.draw(values, None), values, picture.style.palette)
        for title, values in shown.items()
    ]
    guesses = view.trace.top(1)
    predicted = "".join(
        f", taken for {view.class_names[index]} ({wording.percent(probability)})"
        for index, probability in guesses
    )
    caption = (
        f"{base_name(view.loaded.name)} on {view.image.name}{predicted}. Attention from {query.phrase}. The "
        "scale under a map goes from its lowest to its highest value."
    )
    return figure.compose(panels, caption)


def _title(label: str) -> str:
    """What a map is called in a figure, from what it is called among the files."""
    if not label.startswith("Block "):
        return label
    head = label.replace(" head", ", head").removesuffix(" back")
    return f"{head}: {'who looks at it' if label.endswith(' back') else 'where it looks'}"


def map_panel(title: str, picture: Image.Image, values: Map | None, palette: str) -> Panel:
    """A map with its colour scale; the image alone where there is no map."""
    if values is None:
        return Panel(title, picture)
    return Panel(title, picture, (float(values.min()), float(values.max()), palette))


def gallery_figure(panels: Sequence[Panel], what: str, model: str) -> figure.Figure:
    """Several images with one map each."""
    scales = "The scale under an image goes from the lowest to the highest value of its map."
    caption = f"{base_name(model)}: {what}. {scales}"
    return figure.compose(panels, caption)


def _film(view: AttentionView, maps: TokenMaps, query: Query) -> bytes:
    """Where the query looks, block by block, as the mean over heads."""
    blocks = [(block, heads) for block, heads in enumerate(maps.looks) if len(heads)]
    return figure.animation(
        [
            (f"block {block}, from {query.phrase}", view.picture.draw(heads.mean(0).numpy(), FRAME))
            for block, heads in blocks
        ]
    )
