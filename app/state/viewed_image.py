"""One image under the loaded model, and what was read from it; shared by the pages that show maps."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import streamlit as st
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from analysis.attention import (
    AttentionMaps,
    Gradients,
    Map,
    Style,
    TokenMaps,
    Trace,
    covered,
    default_row,
    maps_of,
    mask_seen,
    readout,
    relevance,
    rollout_of,
    row_readings,
    token_maps,
)
from analysis.attention import trace as reading
from analysis.models import LoadedModel
from app import wording
from app.state import memo, session
from app.state.flow import Flow

Mask = NDArray[np.bool_]  # Y X

TRACES_MB = 128  # of a session, and one trace at least


@dataclass(frozen=True)
class ViewedImage:
    """An image to look at. `label` is its class if known; `key` tells it from all others.

    `mask` says which of its pixels show the object, for demo scenes.
    """

    name: str
    image: Image.Image
    label: int | None
    key: object
    mask: Mask | None = None


def of_set(number: int) -> ViewedImage:
    """Image `number` of the loaded images."""
    found = session.images()
    key = (session.choice().data, number)
    return ViewedImage(
        found.item_name(number), found.image(number), found.label(number), key, found.mask(number)
    )


def caption(look: ViewedImage) -> str:
    """Name and true class of an image; once, where the image lies in a folder of that name."""
    known = None if look.label is None else session.class_name(look.label)
    told = known is None or look.name.startswith(f"{known}/")
    return wording.plain(look.name if told else f"{known} · {look.name}")


def cropped(look: ViewedImage, loaded: LoadedModel | None = None) -> Image.Image:
    """The part of the image that the model's patches cover, at its resolution."""
    shown = loaded or session.model()
    return memo.remember(
        "crop", (shown.preprocess, look.key), lambda: covered(look.image, shown.preprocess, shown.model.arch)
    )


def mask_of(look: ViewedImage) -> Tensor | None:
    """Which pixels of what the model sees show the object, Y X; None where that is not known."""
    return None if look.mask is None else mask_seen(look.mask, session.model().preprocess)


def covered_mask(look: ViewedImage) -> Mask | None:
    """`mask_of` over the pixels of `cropped`."""
    mask = mask_of(look)
    width, height = cropped(look).size
    return None if mask is None else mask.numpy()[:height, :width]


def trace(look: ViewedImage, loaded: LoadedModel | None = None) -> Trace:
    """The image's way through the model: all maps are drawn from it. The newest few are kept."""
    shown = loaded or session.model()
    make = lambda: reading.trace(shown.model, shown.preprocess(look.image))
    room = TRACES_MB * 10**6 // reading.held_bytes(shown.model.arch)
    return memo.remember("trace", (shown, look.key), make, keep=max(1, room))


def maps(look: ViewedImage, loaded: LoadedModel | None = None) -> AttentionMaps:
    """Maps of all heads from each prefix token and from the mean over patches."""
    return maps_of(trace(look, loaded))


def seen_from(look: ViewedImage, read: Tensor) -> TokenMaps:
    """Where a reading of tokens looks in every head, and who looks at it."""
    return token_maps(trace(look), read)


def rollout(
    look: ViewedImage, fuse: str, discard: float, blocks: int | None = None, loaded: LoadedModel | None = None
) -> Tensor:
    """Rollout maps, R Y X."""
    seen = trace(look, loaded)
    return rollout_of(seen, row_readings(seen.arch), fuse=fuse, discard=discard, blocks=blocks)


def gradients(look: ViewedImage, label: int, classifier: str) -> Gradients:
    """The pull on a class; the last two are kept."""
    shown = session.model()
    make = lambda: relevance.gradients(shown.model, shown.preprocess(look.image), label, classifier)
    return memo.remember("gradients", (shown, look.key, label, classifier), make, keep=2)


def row_of(loaded: LoadedModel) -> int:
    """The row of the maps that the prediction is read from."""
    return default_row(loaded.model.arch)


def style() -> Style:
    """How maps are drawn, as last chosen on the Attention page."""
    state = st.session_state
    return Style(
        state.get("palette", Style.palette),
        state.get("opacity", 100 * Style.opacity) / 100,
        state.get("smooth", Style.smooth),
    )


def settled(look: ViewedImage, flow: Flow) -> Flow:
    """The flow with the class it is for: the likeliest one where none was chosen."""
    if flow.label is not None or flow.method == "rollout":
        return flow
    return replace(flow, label=trace(look).top(1)[0][0])


def flow(look: ViewedImage, flow: Flow, read: Tensor) -> Map:
    """Attention followed through all blocks, Y X: rollout from a reading, or what pulls on a class."""
    seen, flow = trace(look), settled(look, flow)
    if flow.label is None:
        found = rollout_of(seen, read[None], fuse=flow.fuse, discard=flow.discard, blocks=flow.blocks)
        return found[0].numpy()
    pull, at = gradients(look, flow.label, flow.classifier), readout(seen.arch, flow.classifier)[None]
    values = pull.relevance(at) if flow.method == "relevance" else pull.rollout(at, flow.discard)
    return pull.map(values)[0].numpy()
