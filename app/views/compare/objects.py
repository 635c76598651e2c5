"""The Compare page's objects: how much of the models' attention lies on the object of a demo scene."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from app import wording
from app.parts import charts
from app.progress_bar import progress_bar
from app.state import memo
from app.views.compare import charts as compare_charts
from pruning.report import Comparison, ObjectScores, object_scores


def show(found: Comparison) -> None:
    """Mass on the object and pointing game of every model, and of every head."""
    scores = [_scores(found, place) for place in range(len(found.models))]
    with st.container(key="objects-table"):
        table = {wording.plain(m.name): one.rows() for m, one in zip(found.models, scores, strict=True)}
        st.table(pd.DataFrame(table), border="horizontal", alt="attention on the object")
    heads = scores[0].heads
    st.caption(
        f"Over {heads.images} scenes, for attention from the token that the prediction is read from. By "
        f"chance, {wording.percent(heads.mass_by_chance)} of the mass and "
        f"{wording.percent(heads.pointing_by_chance)} of the peaks would lie on the object."
    )
    st.subheader("Head by head", anchor=False)
    pairs = [(m.name, _pairs(found, place, scores)) for place, m in enumerate(found.models) if place]
    if not any(points for _, points in pairs):
        st.caption("It is not known which heads of the dense model these models kept.")
        return
    st.plotly_chart(
        compare_charts.mass_moved(pairs),
        config=charts.CONFIG,
        key="mass-moved",
        alt="share of each head's attention on the object, in the dense model and in the smaller ones",
    )
    st.caption("Each point is a head. Those above the line look at the object more than before.")


def _scores(found: Comparison, place: int) -> ObjectScores:
    model = found.models[place]
    loaded = found.load(model.source)

    def measure() -> ObjectScores:
        with progress_bar() as progress:
            return object_scores(loaded, found.tested, progress, f"Reading scenes with {model.name}")

    key = (model.source, found.dense.source, found.data, len(found.tested))
    return memo.remember("on objects", key, measure)


def _pairs(found: Comparison, place: int, scores: list[ObjectScores]) -> list[tuple[int, int, float, float]]:
    """Block, head, and mass on the object before and after, for every head that is kept."""
    before, after = scores[0].heads.mass, scores[place].heads.mass
    return [
        (block, head, float(before[block][head]), float(after[block][own]))
        for block, heads in enumerate(found.models[place].kept(found.dense.arch))
        for own, head in enumerate(heads or ())
    ]
