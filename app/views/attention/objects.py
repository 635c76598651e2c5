"""The Attention page's scores against the object of a demo scene: one map, and every head."""

from __future__ import annotations

import streamlit as st
import torch
from torch import Tensor

from analysis.attention import (
    ObjectAttention,
    TokenMaps,
    mass_on_object,
    object_attention,
    patch_cover,
    points_at_object,
    with_masks,
)
from app import wording
from app.parts import charts
from app.parts.pictures import Map
from app.state import memo, session, viewed_image
from app.state.viewed_image import ViewedImage
from app.views.attention import charts as attention_charts
from app.views.attention import controls
from app.views.attention.controls import BIND

SEVERAL = 100
OVER = {"one": "This scene", "several": f"{SEVERAL} scenes"}


def of_map(look: ViewedImage, values: Map) -> None:
    """How much of a map lies on the scene's object, and whether its peak does; nothing for other images."""
    cover = _cover(look)
    if cover is None:
        return
    shown = torch.from_numpy(values)
    mass = wording.percent(float(mass_on_object(shown, cover)))
    chance = wording.percent(float(cover.mean()))
    hit = "on the object ✓" if bool(points_at_object(shown, cover)) else "beside the object ✗"
    st.caption(f"**{mass}** on the object ({chance} by chance), peak {hit}")


def _cover(look: ViewedImage) -> Tensor | None:
    mask = viewed_image.mask_of(look)
    return None if mask is None else patch_cover(mask, session.model().model.arch)


def show(look: ViewedImage, maps: TokenMaps, head: tuple[int, int], token: str) -> None:
    """Every head's share of attention on the object; nothing for other images."""
    cover = _cover(look)
    if cover is None:
        return
    st.subheader("On the object", anchor=False)
    over = st.segmented_control(
        "Over",
        list(OVER),
        format_func=OVER.__getitem__,
        default="one",
        required=True,
        key="objects",
        label_visibility="collapsed",
        bind=BIND,
        persist_state="session",
    )
    if over == "one":
        mass = [mass_on_object(heads, cover).tolist() for heads in maps.looks]
        hits = [points_at_object(heads, cover).float().tolist() for heads in maps.looks]
        chance = float(cover.mean())
    else:
        found = _several(token)
        mass, hits = ([part.tolist() for part in parts] for parts in (found.mass, found.pointing))
        chance = found.mass_by_chance
    st.plotly_chart(
        attention_charts.on_object(mass, hits, head),
        config=charts.CONFIG,
        width="content",
        key="object-grid",
        on_select=_head_clicked,
        selection_mode="points",
        alt="each head's share of attention on the object, blocks from left to right",
    )
    st.caption(f"Share of each head's attention to patches, in percent; {wording.percent(chance)} by chance.")


def _several(token: str) -> ObjectAttention:
    loaded, key = session.model(), (session.choice(), token)
    read = controls.reading(loaded.model.arch, token)
    scenes = session.few_images(SEVERAL)
    make = lambda: object_attention(loaded.model, with_masks(scenes, loaded.preprocess), read)
    with st.spinner(f"Reading {SEVERAL} scenes …"):
        return memo.remember("objects", key, make)


def _head_clicked() -> None:
    clicked = st.session_state["object-grid"]["selection"]["points"]
    if clicked:
        st.session_state["block"], st.session_state["head"] = clicked[0]["customdata"][:2]
