"""The Compare page's predictions: which changed, which classes are confused, and calibration."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import pandas as pd
import streamlit as st

from analysis.attention import thumbnail
from analysis.measure import BINS, NEIGHBOURS, PairChange, confusion, confusion_changes, reliability
from app import wording
from app.parts import charts
from app.state import address, memo
from app.views.compare import charts as compare_charts
from pruning.report import ComparedModel, Comparison

PAGE = 21  # thumbnails at once
SIDE = 112  # pixels of a thumbnail
PAIRS = 10  # pairs of classes in the table
MATRIX = 20  # classes up to which a matrix can be read
PREDICTION_CHANGES = {
    "all": "All",
    "lost": "Lost",
    "gained": "Gained",
}


def show(found: Comparison) -> None:
    """Changed predictions and confused classes of one model, compared with the dense one."""
    model = _pick(found)
    _flips(found, model)
    if found.dense.result.measure != NEIGHBOURS:
        _confusion(found, model)


def _pick(found: Comparison) -> ComparedModel:
    """One of the models that are compared with the dense one."""
    named, key = {model.name: model for model in found.others}, "compare-flips-of"
    names = list(named)
    if len(names) == 1:
        return found.others[0]

    def draw() -> str | None:
        chosen: str | None = st.segmented_control(
            "Model", names, format_func=wording.plain, required=True, key=key, persist_state="session"
        )
        return chosen

    return named[address.pick("of", key, names, draw)]


def _flips(found: Comparison, model: ComparedModel) -> None:
    agreement = model.agreement(found.dense)
    flips = len(agreement.flips)
    st.subheader(f"{wording.count(flips)} prediction{'s' * (flips != 1)} changed", anchor=False)
    if not agreement.flips:
        st.caption("Both models predict the same class for every test image.")
        return
    numbers = {"all": agreement.flips, "lost": agreement.lost, "gained": agreement.gained}
    kind = address.pick("which", "flips-kind", list(PREDICTION_CHANGES), lambda: _kind(numbers))
    shown = numbers[kind]
    slot = st.container(horizontal=True, key="flips")
    page = _page(max(math.ceil(len(shown) / PAGE), 1), kind)
    with slot:
        for number in shown[PAGE * (page - 1) : PAGE * page]:
            _thumbnail(found, model, number)
    st.caption(
        "Number of the image, prediction of the dense model → prediction of the smaller one."
        if shown
        else "None."
    )


def _kind(numbers: Mapping[str, Sequence[int]]) -> str | None:
    chosen: str | None = st.segmented_control(
        "Which",
        list(PREDICTION_CHANGES),
        format_func=lambda kind: f"{PREDICTION_CHANGES[kind]} ({len(numbers[kind]):,})",
        required=True,
        key="flips-kind",
        label_visibility="collapsed",
        help="Lost: only the dense model is right. Gained: only the smaller model is right.",
        persist_state="session",
    )
    return chosen


def _page(pages: int, kind: str) -> int:
    """The page of thumbnails, counted from 1; the address carries it unless it is the first."""
    key, page = f"flips-page-{kind}-{pages}", 1
    wanted = (address.read_once("page") or [""])[0]
    if pages > 1:
        if wanted.isdecimal():
            st.session_state[key] = min(max(int(wanted), 1), pages)
        page = st.pagination(pages, key=key, persist_state="session")
    address.write("page", [str(page)] if page > 1 else [])
    return page


def _thumbnail(found: Comparison, model: ComparedModel, number: int) -> None:
    names = [found.class_name(one.result.predictions[number]) for one in (found.dense, model)]
    true = found.class_name(model.result.labels[number])
    preprocess = found.load(found.dense.source).preprocess
    picture = memo.remember(
        "thumbnail",
        (found.dense.source, found.data, found.tested.item_name(number)),
        lambda: thumbnail(found.tested.image(number), preprocess, SIDE),
        keep=256,
    )
    change = " → ".join(names)
    st.image(picture, caption=f"#{number} {wording.plain(change)}", width=SIDE, alt=f"{true}: {change}")


# ---- classes


def _confusion(found: Comparison, model: ComparedModel) -> None:
    st.subheader("Confused classes", anchor=False)
    changes = confusion_changes(found.dense.result, model.result)
    if not changes:
        st.caption("Each class is confused with others exactly as often as before.")
        return
    # of a gallery there may be more
    highest = max(*model.result.predictions, *found.dense.result.predictions)
    if len(found.tested.classes) > MATRIX or highest >= len(found.tested.classes):
        _pairs(found, model, changes)
        return
    left, right = st.columns([5, 6], gap="medium")
    with left:
        _pairs(found, model, changes)
    size = len(found.tested.classes)
    change = confusion(model.result, size) - confusion(found.dense.result, size)
    with right:
        st.plotly_chart(
            compare_charts.confusion_change(change.tolist(), found.tested.classes),
            config=charts.CONFIG,
            key="confusion-change",
            alt="change of the confusion matrix, true classes from top to bottom",
        )
        st.caption("The change in images: green where the smaller model is better, red where it is worse.")


def _pairs(found: Comparison, model: ComparedModel, changes: Sequence[PairChange]) -> None:
    rows = [
        {
            "Image of": found.class_name(pair.label),
            "Taken for": found.class_name(pair.predicted),
            "Dense": pair.before,
            model.name: pair.after,
            "Change": pair.change,
        }
        for pair in changes[:PAIRS]
    ]
    with st.container(key="confused"):
        signed = {"Change": st.column_config.NumberColumn(format="%+d")}
        st.dataframe(pd.DataFrame(rows), hide_index=True, width="stretch", column_config=signed)
        rest = len(changes) - len(rows)
        more = f"; {wording.count(rest)} others changed as much or less." if rest else "."
        st.caption(f"The pairs of classes whose number of images changed most{more}")


# ---- calibration


def calibration(found: Comparison) -> None:
    """How often the models are right, against their confidence."""
    st.plotly_chart(
        compare_charts.calibration([(m.name, m.ece, reliability(m.result)) for m in found.models]),
        config=charts.CONFIG,
        key="reliability",
        alt="reliability diagrams: accuracy against confidence for each model",
    )
    st.caption(
        f"Test images in {BINS} bins by the confidence of their prediction. On the dashed line, a model is "
        "right as often as its confidence says. The expected calibration error (ECE) is the mean distance "
        "from that line, with each bin weighted by its number of images. The error bars are 95 % intervals, "
        "wide where a bin has few images."
    )
