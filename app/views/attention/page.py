"""The Attention page: where every head of every block looks, in one image or in several."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from html import escape
from typing import Any

import streamlit as st
from PIL import Image

from analysis.attention import TokenMaps
from analysis.data import ImageSet
from app import wording
from app.glossary import meaning
from app.parts import image_picker, picker, pictures, which_images
from app.parts.pictures import Grid, Map
from app.state import session, viewed_image
from app.state.viewed_image import ViewedImage
from app.views.attention import controls, downloads, gallery, merged, objects, propagation
from app.views.attention.controls import BIND
from app.views.attention.queries import Query
from app.views.attention.view import AttentionView, ViewSettings

SOURCES = {"set": "From the images", "photo": "Own photos"}
VIEWS = {"one": "One image", "several": "Gallery"}
BESIDE = 600  # pixels of the grid of all heads, up to which the rest of the page stands beside it


def show() -> None:
    """Draw the page. What it shows is chosen here; the rest is made from what is handed down."""
    loaded, scenes = session.model(), _scenes()
    if not any(block.heads for block in loaded.model.arch.blocks):
        raise session.NothingChosen(
            "No block of this model has attention. Pick another model in the sidebar."
        )
    with st.container(horizontal=True, vertical_alignment="center", key="attention-top"):
        st.header("Attention", anchor=False, width="stretch")
        several = controls.choose("View", VIEWS, "one", "view") == "several"
        style, marks = controls.display(scenes is not None)
        files = None if several else st.popover("Download", icon=":material/download:", key="files")
    with st.container(horizontal=True, vertical_alignment="bottom", key="image-choice"):
        images, numbers = _choose_images(several)
        query = controls.pick_query(loaded.model.arch)
    settings = ViewSettings(loaded, session.class_names(), style, marks)
    if several:
        gallery.show(images, settings, query, partial(_open, numbers))
        return
    with st.container(key="busy"), st.spinner("Reading the image …"):
        view = settings.view(images[0])
        maps = view.maps(query)
    _one_image(view, query, maps, scenes, files)


def _scenes() -> ImageSet | None:
    """The loaded images, if they are demo scenes, in which the place of the object is known."""
    if session.choice().data is None:
        return None
    images = session.images()
    return images if images.rendered else None


def _choose_images(several: bool) -> tuple[list[ViewedImage], list[int]]:
    """The images to look at, and their numbers: some of the loaded ones, or photos of the user's own."""
    default = "set" if session.choice().data else "photo"
    if controls.choose("Image", SOURCES, default, "image-from") == "photo":
        photos = _own_photos(several)
        return photos, list(range(len(photos)))
    among = which_images.choose("image")
    if not among:
        raise session.NothingChosen("There is no such image. Choose others under **Which**.")
    shown = min(gallery.COUNT, len(among)) if several else 1
    with st.container(horizontal=True, vertical_alignment="bottom", width="content", key="image-number"):
        number = image_picker.pick_number("image", len(session.images()), shown, BIND, among)
    place = among.index(number)
    numbers = [among[(place + i) % len(among)] for i in range(shown)]
    return [viewed_image.of_set(number) for number in numbers], numbers


def _own_photos(several: bool) -> list[ViewedImage]:
    photos = image_picker.upload_photos("photo")
    if not photos:
        raise session.NothingChosen("Upload one or more photos to see where the model looks in them.")
    if several or len(photos) == 1:
        return photos
    return [image_picker.pick_photo(photos, "photo-number")]


def _open(numbers: Sequence[int], place: int) -> None:
    """Show one image of the gallery by itself."""
    state = st.session_state
    state["photo-number" if state["image-from"] == "photo" else "image"] = numbers[place]
    state["view"] = "one"


# ---- one image


def _one_image(
    view: AttentionView, query: Query, maps: TokenMaps, scenes: ImageSet | None, files: Any
) -> None:
    with st.container(key="looked-at"):
        photo, enlarged = st.columns([1, 2], gap="small")
    with enlarged:  # first, so that what a click on a patch asks for is also sent first
        head, shown = _enlarged_head(view, query, maps)
    with photo:
        _photo(view, query)
    grid = view.picture.grid(maps)
    if grid.image.width > BESIDE:
        _all_heads(view, query, grid, head)
        merged.show(view, head[0])
        picture, options, scores = st.columns(3, gap="small")
    else:
        heads, others = st.columns([2, 1], gap="small")
        with heads:
            _all_heads(view, query, grid, head)
        picture, options, scores = others.container(), others.container(), heads
        merged.show(view, head[0])
    with options:
        chosen = propagation.with_class(controls.pick_propagation(view), view)
        st.caption(propagation.METHOD_NOTES[chosen.method])
    with picture:
        shown[propagation.METHOD_TITLES[chosen.method]] = _all_blocks(view, query, chosen)
    with scores:
        objects.score_heads(view, query, maps, head, scenes)
    with files:
        downloads.show(view, shown, maps, query)


def _photo(view: AttentionView, query: Query) -> None:
    st.subheader("Image", anchor=False, help="Click a patch to see where it looks, and who looks at it.")
    picker.show(
        picker.of_patches(view.picture.draw(), *view.arch.grid),
        None if query.patch is None else query.patch[::-1],
        _pick_patch,
        key="patches",
        alt=f"the image as the model sees it, {view.image.name}; its patches can be clicked",
    )
    st.caption(viewed_image.caption(view.image, view.class_names))
    guesses = view.trace.top()
    if not guesses:
        st.caption("This model has no classifier.")
        return
    with st.container(key="predictions"):
        st.html("".join(_guess(view, index, probability) for index, probability in guesses))


def _pick_patch(cell: picker.Cell) -> None:
    column, row = cell
    st.session_state["from"] = f"patch {row}, {column}"


def _guess(view: AttentionView, index: int, probability: float) -> str:
    name = escape(view.class_names[index]) + (" ✓" if index == view.image.label else "")
    bar = f'style="--share: {probability:.1%}"'
    return f'<div class="guess" {bar}><span>{name}</span><span>{wording.percent(probability)}</span></div>'


def _enlarged_head(
    view: AttentionView, query: Query, maps: TokenMaps
) -> tuple[tuple[int, int], dict[str, Map]]:
    """One head in both directions. Its sliders stand below the pictures; clicks on the grid move them."""
    both = st.container(key="enlarged")
    block, head = controls.pick_head(view.arch)
    if not view.arch.blocks[block].heads:
        both.info(
            wording.plain(f"Block {block} has no attention, so there are no maps of it."),
            icon=":material/block:",
        )
        return (block, head), {}
    looks, seen = maps.looks[block][head].numpy(), maps.seen[block][head].numpy()
    on_prefix = wording.percent(float(maps.on_prefix[block][head]))
    with both:
        left, right = st.columns(2, gap="small")
        with left:
            st.subheader("Where it looks", anchor=False)
            _inline(view.picture.draw(looks), f"where {query.phrase} looks in block {block}, head {head}")
            st.caption(
                f"Attention from {query.phrase}, {_ends(looks)} for each patch; {on_prefix} of it goes to "
                "the prefix tokens."
            )
        with right:
            st.subheader("Who looks at it", anchor=False)
            _inline(view.picture.draw(seen), f"who looks at {query.phrase} in block {block}, head {head}")
            st.caption(f"Attention that each patch pays to {query.phrase}: {_ends(seen)}.")
    objects.score_map(view, looks)
    return (block, head), {f"Block {block} head {head}": looks, f"Block {block} head {head} back": seen}


def _ends(shares: Map) -> str:
    """The lowest and the highest value of a map, which its colours stretch between."""
    return f"{wording.percent(float(shares.min()))} to {wording.percent(float(shares.max()))}"


def _inline(picture: Image.Image, alt: str) -> None:
    """A picture sent inside the page's own message, so that the browser need not ask for it."""
    st.image(pictures.data_uri(picture), alt=alt)


def _all_blocks(view: AttentionView, query: Query, chosen: propagation.Propagation) -> Map:
    st.subheader("Through all blocks", anchor=False, help=meaning("Rollout", "Class relevance"))
    with st.spinner("Following the attention …"):
        values = propagation.propagated(view, chosen, query)
    title = propagation.title(view, chosen, query)
    with st.container(key="all-blocks"):
        st.image(view.picture.draw(values), alt=title)
    st.caption(wording.plain(title))
    objects.score_map(view, values)
    return values


def _all_heads(view: AttentionView, query: Query, grid: Grid, chosen: tuple[int, int]) -> None:
    st.subheader("All heads", anchor=False, help=meaning("Block", "Head", "Attention map"))
    absent = [str(index) for index, block in enumerate(view.arch.blocks) if not block.heads]
    if absent:
        blocks = "Blocks" if len(absent) > 1 else "Block"
        st.caption(wording.plain(f"{blocks} {', '.join(absent)}: no attention."))
    with st.container(horizontal=True, vertical_alignment="center", key="scale"):
        st.caption(f"From {query.phrase}. Click a map to enlarge it.", width="content")
        with st.container(horizontal=True, vertical_alignment="center", width="content", gap="xsmall"):
            st.caption("In each: lowest value", width="content")
            scale = pictures.scale(view.picture.style.palette, 96, 10)
            st.image(scale, alt="colour scale from low to high", width=96)
            st.caption("highest", width="content")
    picker.show(
        picker.of_heads(grid),
        chosen,
        controls.show_head,
        key="head-grid",
        alt="attention maps of all heads, blocks from left to right, heads from top to bottom",
    )
