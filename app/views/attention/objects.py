"""How well attention finds the object of a demo scene: scores of one map, and of every head."""

from __future__ import annotations

import streamlit as st
import torch

from analysis.attention import (
    ObjectAttention,
    TokenMaps,
    mass_on_object,
    object_attention,
    points_at_object,
    with_masks,
)
from analysis.data import ImageSet
from app import wording
from app.parts import charts_heads
from app.parts.pictures import Map
from app.state import memo
from app.views.attention import charts as attention_charts
from app.views.attention import controls
from app.views.attention.queries import Query
from app.views.attention.view import AttentionView

SEVERAL = 100
OVER = {"one": "This scene", "several": f"{SEVERAL} scenes"}


def score_map(view: AttentionView, values: Map) -> None:
    """Say how much of a map lies on the object, and whether its peak does; nothing for other images."""
    cover = view.object_cover
    if cover is None:
        return
    tensor = torch.from_numpy(values)
    mass = wording.percent(float(mass_on_object(tensor, cover)))
    chance = wording.percent(float(cover.mean()))
    peak = "on the object ✓" if bool(points_at_object(tensor, cover)) else "beside the object ✗"
    st.caption(f"**{mass}** on the object ({chance} by chance), peak {peak}")


def score_heads(
    view: AttentionView, query: Query, maps: TokenMaps, head: tuple[int, int], scenes: ImageSet | None
) -> None:
    """Show how much of every head's attention lies on the object; nothing for other images."""
    cover = view.object_cover
    if cover is None or scenes is None:
        return
    st.subheader("On the object", anchor=False)
    if controls.choose("Over", OVER, "one", "objects") == "one":
        mass = [mass_on_object(heads, cover).tolist() for heads in maps.looks]
        pointing = [points_at_object(heads, cover).float().tolist() for heads in maps.looks]
        chance = float(cover.mean())
    else:
        found = _over_several(view, query, scenes)
        mass, pointing = ([part.tolist() for part in parts] for parts in (found.mass, found.pointing))
        chance = found.mass_by_chance
    figure = attention_charts.on_object(mass, pointing, head)
    alt = "the share of each head's attention on the object, blocks from left to right"
    charts_heads.show(figure, "object-grid", controls.show_head, alt)
    st.caption(
        "Percent of each head's attention to patches that falls on the object. By chance it would be "
        f"{wording.percent(chance)}."
    )


def _over_several(view: AttentionView, query: Query, scenes: ImageSet) -> ObjectAttention:
    def measure() -> ObjectAttention:
        sample = with_masks(scenes.sample(min(SEVERAL, len(scenes))), view.loaded.preprocess)
        return object_attention(view.loaded.model, sample, query.weights)

    with st.spinner(f"Reading {SEVERAL} scenes …"):
        return memo.remember("objects", (view.loaded, query.name), measure)
