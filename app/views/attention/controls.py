"""The widgets of the Attention page. The address bar carries the values of all of them.

Every widget here is bound to the address by its key, so that a view can be shared and survives a
refresh. A widget refuses a value that it does not offer, so a value that belongs to another model is
dropped first.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Any

import streamlit as st

from analysis.attention import FUSIONS, classifiers_of, default_row
from analysis.vit import Architecture
from app import wording
from app.parts.keys import keys
from app.parts.pictures import PALETTES, Style
from app.views.attention import queries
from app.views.attention.propagation import METHOD_NOTES, METHOD_TITLES, Propagation
from app.views.attention.queries import Query
from app.views.attention.view import AttentionView, Marks

BIND: Any = "query-params"
LIKELIEST = "the likeliest"


def drop_unless(key: str, offered: Container[Any]) -> None:
    """Drop a widget's value that is not among those it offers."""
    if key in st.session_state and st.session_state[key] not in offered:
        del st.session_state[key]


def choose(label: str, options: dict[str, str], default: str, key: str) -> str:
    """One of a few options, side by side."""
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


def pick_query(arch: Architecture) -> Query:
    """The token, or the mean of tokens, that attention is shown from."""
    names = queries.query_names(arch)
    drop_unless("from", names)
    name = st.selectbox(
        "Attention from",
        names,
        index=default_row(arch),
        key="from",
        width=190,
        bind=BIND,
        persist_state="session",
        help="A token, or a patch by its row and column. A click on the photo chooses a patch.",
    )
    return queries.query(arch, name)


# ---- how maps are drawn


def display(with_objects: bool) -> tuple[Style, Marks]:
    """Colours, opacity, and what is drawn over the pictures."""
    with st.popover("Display", icon=":material/palette:", key="display"):
        drop_unless("palette", PALETTES)
        palette = st.selectbox("Colours", list(PALETTES), key="palette", bind=BIND, persist_state="session")
        opacity = st.slider(
            "Opacity of the map (100 % hides the photo)",
            0,
            100,
            60,
            step=5,
            format="%d %%",
            key="opacity",
            bind=BIND,
            persist_state="session",
        )
        smooth = _toggle("Smooth between patches", "smooth", True)
        lines = _toggle("Lines between patches", "lines", False)
        outline = with_objects and _toggle("Outline of the object", "outline", False)
    return Style(palette, opacity / 100, smooth), Marks(lines, outline)


def _toggle(label: str, key: str, value: bool) -> bool:
    return st.toggle(label, value=value, key=key, bind=BIND, persist_state="session")


# ---- one head


def pick_head(arch: Architecture) -> tuple[int, int]:
    """Block and head by sliders, which clicks on the grid move too."""
    left, right = st.columns(2, gap="small")
    with left:
        block = _index_slider("Block", "block", arch.depth, arch.depth // 2)
    with right:
        head = _index_slider("Head", "head", arch.blocks[block].heads, 0)
    keys.offer_heads((block, head), tuple(widths.heads for widths in arch.blocks), show_head)
    return block, head


def show_head(head: tuple[int, int]) -> None:
    """Move the sliders of `pick_head`, from a callback."""
    st.session_state["block"], st.session_state["head"] = head


def _index_slider(label: str, key: str, count: int, start: int) -> int:
    count = max(count, 1)  # a block without attention has no heads to choose from
    current = st.session_state.get(key)
    if isinstance(current, int) and current >= count:
        st.session_state[key] = count - 1
    chosen: int = st.slider(
        label,
        0,
        max(count - 1, 1),  # a slider needs two ends
        start,
        key=key,
        disabled=count == 1,
        bind=BIND,
        persist_state="session",
    )
    return chosen


# ---- through all blocks


def pick_propagation(view: AttentionView) -> Propagation:
    """A method of following attention through all blocks, with those options that it has."""
    arch = view.arch
    offered = list(METHOD_TITLES) if arch.num_classes else ["rollout"]
    drop_unless("through", offered)
    method = st.selectbox(
        "Through all blocks by",
        offered,
        format_func=METHOD_TITLES.__getitem__,
        key="through",
        bind=BIND,
        persist_state="session",
        help=" ".join(METHOD_NOTES[name] for name in offered),
    )
    fuse, blocks, label, classifier = "mean", arch.depth, None, "mean"
    if method == "rollout":
        fuse, blocks = _rollout_options(arch)
    else:
        label, classifier = _pick_class(view)
    discard = _discard() if method != "relevance" else 0.0
    return Propagation(method, fuse, discard, blocks, label, classifier)


def _rollout_options(arch: Architecture) -> tuple[str, int]:
    left, right = st.columns(2, gap="small")
    with left:
        drop_unless("fuse", FUSIONS)
        fuse = st.selectbox("Fuse heads by", list(FUSIONS), key="fuse", bind=BIND, persist_state="session")
    with right:
        last = _index_slider("Up to block", f"upto-{arch.depth}", arch.depth, arch.depth - 1)
    return fuse, last + 1


def _discard() -> float:
    percent = st.slider(
        "Discard the weakest",
        0,
        95,
        0,
        step=5,
        format="%d %%",
        key="discard",
        bind=BIND,
        persist_state="session",
        help="The share of the lowest values in each row that is set to zero before the blocks are "
        "multiplied.",
    )
    return float(percent) / 100


def _pick_class(view: AttentionView) -> tuple[int | None, str]:
    """Any class, the likeliest five first; for a distilled model also whose logit is meant."""
    names = wording.told_apart(view.class_names[: view.arch.num_classes])
    first = [index for index, _ in view.trace.top(5)]
    rest = [name for index, name in enumerate(names) if index not in first]
    offered = [LIKELIEST, *(names[index] for index in first), *rest]
    drop_unless("class", offered)
    chosen = st.selectbox("For the class", offered, key="class", bind=BIND, persist_state="session")
    return None if chosen == LIKELIEST else names.index(chosen), _pick_classifier(view.arch)


def _pick_classifier(arch: Architecture) -> str:
    classifiers = classifiers_of(arch)
    if len(classifiers) < 2:
        return "mean"
    drop_unless("classifier", classifiers)
    classifier: str = st.selectbox(
        "Logit of",
        classifiers,
        format_func=lambda name: "both classifiers' mean" if name == "mean" else f"the {name} token's",
        key="classifier",
        bind=BIND,
        persist_state="session",
    )
    return classifier
