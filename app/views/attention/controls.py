"""What the Attention page is set to, and the widgets that set it; the address bar carries all of it.

Every widget here is bound to the address by its key, so that a view can be shared and survives a
refresh. What another model left behind and this one does not have is forgotten first: a widget would
refuse it.
"""

from __future__ import annotations

from typing import Any

import streamlit as st
from torch import Tensor

from analysis.attention import (
    FUSIONS,
    PATCH_MEAN,
    Trace,
    classifiers_of,
    default_row,
    mean_of_patches,
    one_token,
    readout,
    token_names,
)
from analysis.vit import Architecture
from app.parts.marks import Marks
from app.parts.pictures import PALETTES, Style
from app.state import memo, session
from app.state.flow import FLOW_METHODS, FLOW_NOTES, Flow

BIND: Any = "query-params"
LIKELIEST = "the likeliest"


def forget_unless(key: str, known: Any) -> None:
    """Drop a widget's value that is not among `known`."""
    if key in st.session_state and st.session_state[key] not in known:
        del st.session_state[key]


# ---- the token


def pick_token(arch: Architecture) -> str:
    """Which token attention is shown from, by name."""
    names = tokens(arch)
    forget_unless("from", names)
    chosen: str = st.selectbox(
        "Attention from",
        names,
        index=default_row(arch),
        key="from",
        width=190,
        bind=BIND,
        persist_state="session",
        help="A token, or a patch by its row and column. Clicking the photo chooses a patch.",
    )
    return chosen


def tokens(arch: Architecture) -> list[str]:
    """Names to choose from: tokens before the patches, the mean over patches, each patch."""
    names, prefix = token_names(arch), len(arch.prefix_names)
    return [*(f"{name} token" for name in names[:prefix]), PATCH_MEAN, *names[prefix:]]


def reading(arch: Architecture, token: str) -> Tensor:
    """A token chosen by name, as a reading of all tokens."""
    if token == PATCH_MEAN:
        return mean_of_patches(arch)
    place = tokens(arch).index(token)
    return one_token(arch, place - (place > len(arch.prefix_names)))


def named(token: str) -> str:
    """A token in a sentence."""
    return token if token.startswith("patch ") else f"the {token}"


def patch_of(arch: Architecture, token: str) -> tuple[int, int] | None:
    """Row and column of a chosen patch; None for other tokens."""
    place = tokens(arch).index(token) - len(arch.prefix_names) - 1
    return divmod(place, arch.grid[1]) if place >= 0 else None


# ---- how maps are drawn


def display(with_objects: bool) -> tuple[Style, Marks]:
    """Colours, opacity and what is drawn over the pictures."""
    with st.popover("Display", icon=":material/palette:", key="display"):
        forget_unless("palette", PALETTES)
        palette = st.selectbox("Colours", list(PALETTES), key="palette", bind=BIND, persist_state="session")
        opacity = st.slider(
            "Opacity of the map (100 %: the bare map)",
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
        block = _scrub("Block", "block", arch.depth, arch.depth // 2)
    with right:
        head = _scrub("Head", "head", arch.blocks[block].heads, 0)
    return block, head


def _scrub(label: str, key: str, count: int, start: int) -> int:
    here = st.session_state.get(key)
    if isinstance(here, int) and here >= count:
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


def pick_flow(seen: Trace) -> Flow:
    """The method and its options, those that it has."""
    arch = seen.arch
    known = list(FLOW_METHODS) if arch.num_classes else ["rollout"]
    forget_unless("through", known)
    method = st.selectbox(
        "Through all blocks by",
        known,
        format_func=FLOW_METHODS.__getitem__,
        key="through",
        bind=BIND,
        persist_state="session",
        help=" ".join(FLOW_NOTES[name] for name in known),
    )
    fuse, blocks, label, classifier = "mean", arch.depth, None, "mean"
    if method == "rollout":
        fuse, blocks = _rollout_options(arch)
    else:
        label, classifier = _pick_class(seen)
    discard = _discard() if method != "relevance" else 0.0
    return Flow(method, fuse, discard, blocks, label, classifier)


def _rollout_options(arch: Architecture) -> tuple[str, int]:
    left, right = st.columns(2, gap="small")
    with left:
        forget_unless("fuse", FUSIONS)
        fuse = st.selectbox("Heads joined by", list(FUSIONS), key="fuse", bind=BIND, persist_state="session")
    with right:
        upto = _scrub("Up to block", f"upto-{arch.depth}", arch.depth, arch.depth - 1)
    return fuse, upto + 1


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
        help="Share of each row's lowest values that is dropped before blocks are multiplied.",
    )
    return float(percent) / 100


def _pick_class(seen: Trace) -> tuple[int | None, str]:
    """Any class, the likeliest five first; of a distilled model also whose logit."""
    names = memo.remember("class names", session.choice(), session.class_names, keep=4)
    first = [index for index, _ in seen.top(5)]
    rest = [name for index, name in enumerate(names) if index not in first]
    known = [LIKELIEST, *(names[index] for index in first), *rest]
    forget_unless("class", known)
    chosen = st.selectbox("For the class", known, key="class", bind=BIND, persist_state="session")
    classifier = "mean"
    if len(classifiers_of(seen.arch)) > 1:
        forget_unless("classifier", classifiers_of(seen.arch))
        classifier = st.selectbox(
            "Logit of",
            classifiers_of(seen.arch),
            format_func=lambda name: "both classifiers' mean" if name == "mean" else f"the {name} token's",
            key="classifier",
            bind=BIND,
            persist_state="session",
        )
    return None if chosen == LIKELIEST else names.index(chosen), classifier


def read_at(arch: Architecture, flow: Flow, token: str) -> str:
    """Where a flow is read, and for what, in words."""
    if flow.method == "rollout" or flow.label is None:
        return f"from {named(token)}"
    name = session.class_name(flow.label)
    if arch.pool != "token":
        return f"for {name}, read at all patches alike"
    used = readout(arch, flow.classifier)[: len(arch.prefix_names)] > 0
    where = " and ".join(name for name, here in zip(arch.prefix_names, used.tolist(), strict=True) if here)
    return f"for {name}, read at the {where} token"
