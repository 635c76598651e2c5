"""The Compare page's objects: whether the models look at what the scene is about."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from app import wording
from app.parts import charts
from app.progress_bar import progress_bar
from app.state import memo
from app.views.compare import charts as compare_charts
from pruning.report import Comparison, OnObjects, on_objects


def show(found: Comparison) -> None:
    """Mass on the object and pointing game of every model, and head by head."""
    scores = [_scores(found, place) for place in range(len(found.models))]
    with st.container(key="objects-table"):
        table = {m.name: one.rows() for m, one in zip(found.models, scores, strict=True)}
        st.table(pd.DataFrame(table), border="horizontal", alt="attention on the object")
    heads = scores[0].heads
    st.caption(
        f"Over {heads.images} scenes, seen from the token that the prediction is read from. By chance "
        f"{wording.percent(heads.mass_by_chance)} of the mass lies on the object and "
        f"{wording.percent(heads.pointing_by_chance)} of the peaks do."
    )
    st.subheader("Head by head", anchor=False)
    pairs = [(m.name, _pairs(found, place, scores)) for place, m in enumerate(found.models) if place]
    if not any(points for _, points in pairs):
        st.caption("Which heads stayed is not known of these models.")
        return
    st.plotly_chart(
        compare_charts.mass_moved(pairs),
        config=charts.CONFIG,
        key="mass-moved",
        alt="share of each head's attention on the object, in the dense model and in the smaller ones",
    )
    st.caption("Each point is a head: above the line it looks at the object more than before.")


def _scores(found: Comparison, place: int) -> OnObjects:
    model = found.models[place]
    loaded = found.load(model.source)

    def measure() -> OnObjects:
        with progress_bar() as progress:
            return on_objects(loaded, found.tested, progress, f"Reading scenes with {model.name}")

    key = (model.source, found.dense.source, found.data, len(found.tested))
    return memo.remember("on objects", key, measure)


def _pairs(found: Comparison, place: int, scores: list[OnObjects]) -> list[tuple[int, int, float, float]]:
    """Block, head, and the mass on the object before and after, of every head that stays."""
    before, after = scores[0].heads.mass, scores[place].heads.mass
    return [
        (block, head, float(before[block][head]), float(after[block][own]))
        for block, heads in enumerate(found.models[place].kept(found.dense.arch))
        for own, head in enumerate(heads or ())
    ]
