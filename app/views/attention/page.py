"""Page 2: where every head of every block looks, for one image or several."""

from __future__ import annotations

from html import escape
from typing import Any

import streamlit as st
from PIL import Image

from analysis.attention import TokenMaps
from analysis.vit import Architecture
from app import wording
from app.parts import image_picker, map_picture, picker, pictures
from app.parts.map_picture import MapPicture
from app.parts.marks import Marks
from app.parts.pictures import Map, Style
from app.state import flow as state_flow
from app.state import session, viewed_image
from app.state.viewed_image import ViewedImage
from app.views.attention import controls
from app.views.attention import gallery as attention_gallery
from app.views.attention import objects as attention_objects
from app.views.attention.controls import BIND

SOURCES = {"set": "From the images", "photo": "Own photos"}
VIEWS = {"one": "One image", "several": "Gallery"}


def show() -> None:
    """The page."""
    with st.container(horizontal=True, vertical_alignment="center", key="attention-top"):
        st.header("Attention", anchor=False, width="stretch")
        gallery = _pick("View", VIEWS, "one", "view") == "several"
        style, marks = controls.display(_has_objects())
        files = None if gallery else st.popover("Download", icon=":material/download:", key="files")
    with st.container(horizontal=True, vertical_alignment="bottom", key="image-choice"):
        looks = _choose_images(gallery)
        token = controls.pick_token(session.model().model.arch)
    if gallery:
        attention_gallery.show(looks, token, style, marks)
    else:
        _one_image(looks[0], token, style, marks, files)


def _pick(label: str, options: dict[str, str], default: str, key: str) -> str:
    chosen: str = st.segmented_control(
        label,
        list(options),
        format_func=options.__getitem__,
        default=default,
        required=True,
        key=key,
        label_visibility="collapsed",
        bind=BIND,
        persist_state="session",
    )
    return chosen


def _has_objects() -> bool:
    return session.choice().data is not None and session.images().rendered


def _choose_images(gallery: bool) -> list[ViewedImage]:
    """The images to look at: of the data set, by number, or photos of one's own."""
    if _pick("Image", SOURCES, "set" if session.choice().data else "photo", "image-from") == "photo":
        return _own_photos(gallery)
    count = len(session.images())
    shown = min(attention_gallery.COUNT, count) if gallery else 1
    number = image_picker.pick_number("image", count, shown, BIND)
    return [viewed_image.of_set((number + i) % count) for i in range(shown)]


def _own_photos(gallery: bool) -> list[ViewedImage]:
    photos = image_picker.upload()
    if not photos:
        raise session.NothingChosen("Upload one or more photos to see where the model looks in them.")
    if gallery or len(photos) == 1:
        return photos
    return [photos[image_picker.pick_number("photo-number", len(photos))]]


# ---- one image


def _one_image(look: ViewedImage, token: str, style: Style, marks: Marks, files: Any) -> None:
    arch = session.model().model.arch
    with st.container(key="busy"), st.spinner("Reading the image …"):
        maps = viewed_image.seen_from(look, controls.reading(arch, token))
    drawn = map_picture.map_picture_of(look, style, marks)
    photo, one = st.columns([1, 2], gap="small")
    with one:  # what a click on a patch asks for comes first, on the wire too
        head, shown = _head(look, maps, token, drawn)
    with photo:
        _photo(look, arch, controls.patch_of(arch, token), drawn)
    _grid(maps, head, token, drawn)
    shown |= _flow(look, maps, head, token, drawn)
    map_picture.downloads(files, look.name, drawn, {"The image": None} | shown, maps)


def _photo(look: ViewedImage, arch: Architecture, patch: tuple[int, int] | None, drawn: MapPicture) -> None:
    st.subheader("Image", anchor=False, help="Click a patch to see where it looks, and who looks at it.")
    picker.show(
        picker.of_patches(drawn.draw(), *arch.grid),
        None if patch is None else patch[::-1],
        _pick_patch,
        key="patches",
        alt=f"the image as the model sees it, {look.name}; its patches can be clicked",
    )
    st.caption(viewed_image.caption(look))
    guesses = viewed_image.trace(look).top()
    if not guesses:
        st.caption("This model has no classifier.")
        return
    with st.container(key="predictions"):
        st.html("".join(_guess(index, probability, look.label) for index, probability in guesses))


def _pick_patch(cell: picker.Cell) -> None:
    column, row = cell
    st.session_state["from"] = f"patch {row}, {column}"


def _guess(index: int, probability: float, truth: int | None) -> str:
    name = escape(session.class_name(index)) + (" ✓" if index == truth else "")
    bar = f'style="--share: {probability:.1%}"'
    return f'<div class="guess" {bar}><span>{name}</span><span>{wording.percent(probability)}</span></div>'


def _head(
    look: ViewedImage, maps: TokenMaps, token: str, drawn: MapPicture
) -> tuple[tuple[int, int], dict[str, Map | None]]:
    """One head enlarged, both ways; block and head come from sliders that clicks on the grid move too."""
    both = st.container()
    block, head = controls.pick_head(session.model().model.arch)
    it = controls.named(token)
    looks, seen = maps.looks[block][head].numpy(), maps.seen[block][head].numpy()
    stays = wording.percent(float(maps.on_prefix[block][head]))
    with both:
        left, right = st.columns(2, gap="small")
        with left:
            st.subheader("Where it looks", anchor=False)
            _at_once(drawn.draw(looks), f"where {it} looks in block {block}, head {head}")
            st.caption(f"Attention from {it}; {stays} stays on the prefix tokens.")
        with right:
            st.subheader("Who looks at it", anchor=False)
            _at_once(drawn.draw(seen), f"who looks at {it} in block {block}, head {head}")
            st.caption(f"Attention that each patch pays to {it}.")
    attention_objects.of_map(look, looks)
    return (block, head), {f"Block {block} head {head}": looks, f"Block {block} head {head} back": seen}


def _at_once(picture: Image.Image, alt: str) -> None:
    """A picture that comes with the page's own message: nobody waits for the browser to ask for it."""
    st.image(pictures.data_uri(picture), alt=alt)


def _flow(
    look: ViewedImage, maps: TokenMaps, head: tuple[int, int], token: str, drawn: MapPicture
) -> dict[str, Map | None]:
    """Attention through all blocks, and, for scenes, every head against the object."""
    arch = session.model().model.arch
    picture, options, objects = st.columns(3, gap="small")
    with options:
        flow = viewed_image.settled(look, controls.pick_flow(viewed_image.trace(look)))
        st.caption(state_flow.FLOW_NOTES[flow.method])
    with picture:
        st.subheader("Through all blocks", anchor=False)
        with st.spinner("Following the attention …"):
            values = viewed_image.flow(look, flow, controls.reading(arch, token))
        name = f"{state_flow.FLOW_METHODS[flow.method]} {controls.read_at(arch, flow, token)}"
        st.image(drawn.draw(values), alt=name)
        st.caption(wording.plain(name))
        attention_objects.of_map(look, values)
    with objects:
        attention_objects.show(look, maps, head, token)
    return {state_flow.FLOW_METHODS[flow.method]: values}


def _grid(maps: TokenMaps, chosen: tuple[int, int], token: str, drawn: MapPicture) -> None:
    st.subheader("All heads", anchor=False)
    palette = drawn.style.palette
    with st.container(horizontal=True, vertical_alignment="center", key="scale"):
        st.caption(
            f"From {controls.named(token)}. Click a map to enlarge it. Each runs from its lowest",
            width="content",
        )
        st.image(pictures.scale(palette, 120, 10), alt="colour scale from low to high", width=120)
        st.caption("to its own highest value.", width="content")
    picker.show(
        picker.of_heads(drawn.grid(maps)),
        chosen,
        _pick_head,
        key="head-grid",
        alt="attention maps of all heads, blocks from left to right, heads from top to bottom",
    )


def _pick_head(cell: picker.Cell) -> None:
    st.session_state["block"], st.session_state["head"] = cell
