"""The Attention page's gallery: one head, or attention through all blocks, in several images at once."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import partial

import streamlit as st

from app import wording
from app.parts.pictures import Map
from app.progress_bar import progress_bar
from app.state import memo
from app.state.viewed_image import ViewedImage
from app.views.attention import controls, downloads
from app.views.attention.figure import Figure
from app.views.attention.propagation import METHOD_TITLES, propagated
from app.views.attention.queries import Query
from app.views.attention.view import AttentionView, ViewSettings

COUNT = 12  # images at once
SIDE = 205  # pixels of a picture: four fit beside the sidebar
SHOWN = {"head": "One head", "flow": "Through all blocks"}


@dataclass(frozen=True)
class _Result:
    """An image's map and its likeliest class with the probability, if the model has classes.

    There is no map of a block without attention.
    """

    values: Map | None
    top: tuple[int, float] | None


@dataclass(frozen=True)
class _MapKind:
    """Which map is made of every image, in words: `key` tells it from all others."""

    what: str
    key: Hashable
    make: Callable[[AttentionView], Map | None]


def show(
    images: list[ViewedImage], settings: ViewSettings, query: Query, open_image: Callable[[int], None]
) -> None:
    """Pictures side by side. A button under each calls `open_image` with its place among them."""
    chosen = controls.choose("Shown", SHOWN, "head", "gallery")
    with st.container(width=600, key="gallery-options"):
        kind = _one_head(settings, query) if chosen == "head" else _all_blocks(images[0], settings, query)
    results = _results(images, settings, kind)
    with st.popover("Download", icon=":material/download:", key="gallery-files"):
        st.markdown("**The gallery as one figure**")
        make = partial(_figure, images, results, settings, kind.what)
        downloads.figure_buttons("attention", make, "gallery")
    with st.container(horizontal=True, gap="small", key="gallery-pictures"):
        for place, (image, result) in enumerate(zip(images, results, strict=True)):
            with st.container(width=SIDE, gap="xsmall"):
                picture = settings.picture(image).draw(result.values, SIDE)
                st.image(picture, alt=f"attention in {image.name}", width="stretch")
                caption = _prediction(image, result, settings.class_names)
                _below(image, caption, partial(open_image, place), f"open-{place}")


def _one_head(settings: ViewSettings, query: Query) -> _MapKind:
    arch = settings.loaded.model.arch
    block, head = controls.pick_head(arch)
    what, key = f"block {block}, head {head}, from {query.phrase}", (query.name, block, head)
    if not arch.blocks[block].heads:
        st.caption(wording.plain(f"Block {block} has no attention."))
        return _MapKind(what, key, lambda view: None)
    return _MapKind(what, key, lambda view: view.maps(query).looks[block][head].numpy())


def _all_blocks(first: ViewedImage, settings: ViewSettings, query: Query) -> _MapKind:
    propagation = controls.pick_propagation(settings.view(first))
    what = f"{METHOD_TITLES[propagation.method]}, from {query.phrase}"
    return _MapKind(what, (query.name, propagation), lambda view: propagated(view, propagation, query))


def _figure(images: list[ViewedImage], results: list[_Result], settings: ViewSettings, what: str) -> Figure:
    """All pictures of the gallery, each with what it was taken for."""
    panels = [
        downloads.map_panel(
            _prediction(image, result, settings.class_names),
            settings.picture(image).draw(result.values, None),
            result.values,
            settings.style.palette,
        )
        for image, result in zip(images, results, strict=True)
    ]
    return downloads.gallery_figure(panels, what, settings.loaded.name)


def _results(images: list[ViewedImage], settings: ViewSettings, kind: _MapKind) -> list[_Result]:
    """The maps of all images. They are kept, as the traces of so many images of a large model cannot be."""

    def result(image: ViewedImage) -> _Result:
        view = settings.view(image)
        return _Result(kind.make(view), next(iter(view.trace.top(1)), None))

    found = []
    with progress_bar() as progress:
        for done, image in enumerate(images):
            progress("Reading the images", done / len(images))
            key = settings.loaded, image.key, kind.key
            found.append(memo.remember("gallery", key, lambda: result(image), keep=256))  # noqa: B023
    return found


def _prediction(image: ViewedImage, result: _Result, class_names: tuple[str, ...]) -> str:
    """The likeliest class and whether it is right, or the image's name where there are no classes."""
    if result.top is None:
        return image.name
    index, probability = result.top
    verdict = "" if image.label is None else " ✓" if index == image.label else " ✗"
    return f"{class_names[index]}{verdict} {wording.percent(probability, 0)}"


def _below(image: ViewedImage, caption: str, open_it: Callable[[], None], key: str) -> None:
    with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
        st.caption(wording.plain(caption), width=SIDE - 50)  # room for the button beside a long name
        st.button(
            "",
            key=key,
            on_click=open_it,
            help=f"Open {wording.plain(image.name)}",
            type="tertiary",
            icon=":material/open_in_full:",
        )
