"""Page 2: where every head of every block looks, for one image."""

from __future__ import annotations

from html import escape
from typing import Any

import streamlit as st
from PIL import Image

from analysis.images import EXTENSIONS, read_image
from analysis.maps import AttentionMaps, default_row, query_rows
from analysis.rollout import FUSIONS
from analysis.vit import Architecture
from app import charts, looking, pictures, session, words
from app.looking import Look

SOURCES = {"set": "From the images", "photo": "Own photo"}
SIDE = 300  # pixels of the large pictures
ROOM = 900, 430  # pixels of the grid


def show() -> None:
    """The page."""
    arch = session.model().model.arch
    st.header("Attention", anchor=False)
    with st.container(horizontal=True, vertical_alignment="bottom", key="image-choice"):
        look = _choose_image()
        row, style = _display(arch)
    maps = looking.maps(look)
    photo, chosen, flow = st.columns(3, gap="medium")
    with photo:
        _photo(look, maps)
    with chosen:
        head = _head(look, maps, row, style)
    with flow:
        _rollout(look, arch, row, style)
    _grid(look, maps, head, row, style)


def _choose_image() -> Look:
    """The image to look at: one of the data set, by number, or an uploaded photo."""
    source = st.segmented_control(
        "Image",
        list(SOURCES),
        format_func=SOURCES.__getitem__,
        default="set" if session.choice().data else "photo",
        required=True,
        key="image-from",
        persist_state="session",
    )
    if source == "photo":
        return _uploaded()
    return looking.of_set(looking.pick_number("look-at", len(session.images())))


def _uploaded() -> Look:
    upload = st.file_uploader(
        "Photo",
        type=[extension.removeprefix(".") for extension in EXTENSIONS],
        key="photo",
        max_upload_size=session.MAX_UPLOAD_MB["photo"],
        label_visibility="collapsed",
    )
    look: Look | None = st.session_state.get("own photo")
    if upload is not None and (look is None or look.key != upload.file_id):
        look = Look(upload.name, read_image(upload, upload.name), None, upload.file_id)
        st.session_state["own photo"] = look
    if look is None:
        raise session.NothingChosen("Upload a photo to see where the model looks in it.")
    return look


def _display(arch: Architecture) -> tuple[int, pictures.Style]:
    """Which token's attention is shown, and how maps are drawn."""
    names = query_rows(arch)
    row = st.selectbox(
        "Attention from",
        range(len(names)),
        index=default_row(arch),
        format_func=lambda row: names[row] + ("" if row == len(names) - 1 else " token"),
        key=f"row-{len(names)}-{default_row(arch)}",
        width=190,
        persist_state="session",
    )
    with st.popover("Display", icon=":material/palette:", key="display"):
        palette = st.selectbox("Colours", list(pictures.PALETTES), key="palette", persist_state="session")
        opacity = st.slider(
            "Opacity of the map (100 %: the bare map)",
            0,
            100,
            60,
            step=5,
            format="%d %%",
            key="opacity",
            persist_state="session",
        )
        smooth = st.toggle("Smooth between patches", value=True, key="smooth", persist_state="session")
    return row, pictures.Style(palette, opacity / 100, smooth)


def _photo(look: Look, maps: AttentionMaps) -> None:
    st.subheader("Image", anchor=False)
    shown = pictures.enlarge(looking.cropped(look), SIDE)
    st.image(shown, alt=f"the image as the model sees it: {look.name}", width="stretch")
    st.caption(looking.caption(look))
    guesses = looking.trace(look).top()
    if not guesses:
        st.caption("This model has no classifier.")
        return
    with st.container(key="predictions"):
        st.html("".join(_guess(index, probability, look.label) for index, probability in guesses))


def _guess(index: int, probability: float, truth: int | None) -> str:
    name = escape(session.class_name(index)) + (" ✓" if index == truth else "")
    bar = f'style="--share: {probability:.1%}"'
    return f'<div class="guess" {bar}><span>{name}</span><span>{words.percent(probability)}</span></div>'


def _head(look: Look, maps: AttentionMaps, row: int, style: pictures.Style) -> tuple[int, int]:
    """One head enlarged; block and head come from widgets that clicks on the grid move too."""
    st.subheader("One head", anchor=False)
    slot = st.container()
    left, right = st.columns(2)
    depth = len(maps.blocks)
    _clamp("block", depth - 1, start=depth // 2)
    block = left.number_input("Block", 0, depth - 1, key="block", persist_state="session")
    heads = len(maps.blocks[block])
    _clamp("head", heads - 1)
    head = right.number_input("Head", 0, heads - 1, key="head", persist_state="session")
    picture = _large(look, maps.blocks[block][head, row].numpy(), style)
    slot.image(picture, alt=f"attention of block {block}, head {head}", width="stretch")
    stays = float(maps.on_prefix[block][head, row])
    st.caption(f"{words.percent(stays)} of its attention stays on the prefix tokens.")
    return block, head


def _clamp(key: str, high: int, start: int = 0) -> None:
    # another model may have fewer; a number beyond the widget's range would be refused
    st.session_state[key] = min(st.session_state.get(key, start), high)


def _large(look: Look, values: Any, style: pictures.Style) -> Image.Image:
    return pictures.overlay(pictures.enlarge(looking.cropped(look), SIDE), values, style)


def _rollout(look: Look, arch: Architecture, row: int, style: pictures.Style) -> None:
    st.subheader("Rollout", anchor=False)
    slot = st.container()
    left, right = st.columns(2)
    fuse = left.selectbox("Heads joined by", list(FUSIONS), key="fuse", persist_state="session")
    _clamp_rollout(arch.depth)
    upto = right.number_input("Up to block", 0, arch.depth - 1, key="rollout-block", persist_state="session")
    discard = st.slider(
        "Discard the weakest",
        0,
        95,
        0,
        step=5,
        format="%d %%",
        key="discard",
        persist_state="session",
        help="Share of each row's lowest attention that is dropped before blocks are multiplied.",
    )
    values = looking.rollout(look, fuse, discard / 100, upto + 1)[row].numpy()
    slot.image(_large(look, values, style), alt="attention rollout", width="stretch")


def _clamp_rollout(depth: int) -> None:
    if st.session_state.get("rollout depth") != depth:  # another model: all of its blocks
        st.session_state["rollout depth"], st.session_state["rollout-block"] = depth, depth - 1


def _grid(look: Look, maps: AttentionMaps, chosen: tuple[int, int], row: int, style: pictures.Style) -> None:
    planes = [[heads[head, row].numpy() for head in range(len(heads))] for heads in maps.blocks]
    grid = pictures.grid(looking.cropped(look), planes, style, ROOM)
    st.subheader("All heads", anchor=False)
    with st.container(horizontal=True, vertical_alignment="center", key="scale"):
        st.caption("Click a map to enlarge it. Each is drawn from its own lowest", width="content")
        st.image(pictures.scale(style.palette, 120, 10), alt="colour scale from low to high", width=120)
        st.caption("to its own highest value.", width="content")
    st.plotly_chart(
        charts.head_grid(grid, chosen),
        config=charts.CONFIG,
        width="content",
        key="head-grid",
        on_select=_clicked,
        selection_mode="points",
        alt="attention maps of all heads, blocks from left to right, heads from top to bottom",
    )


def _clicked() -> None:
    clicked = st.session_state["head-grid"]["selection"]["points"]
    if clicked:
        st.session_state["block"], st.session_state["head"] = clicked[0]["customdata"]
