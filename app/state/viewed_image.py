"""Images that pages show attention maps of, and what a model computes for them, kept for the session."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import streamlit as st
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from analysis.attention import (
    AttentionMaps,
    Gradients,
    Style,
    Trace,
    covered,
    default_row,
    maps_of,
    relevance,
    rollout_of,
    row_readings,
    trace,
)
from analysis.models import LoadedModel
from app import wording
from app.state import memo, session

Mask = NDArray[np.bool_]  # Y X

TRACES_MB = 128  # of a session; one trace is kept even if it is larger


@dataclass(frozen=True)
class ViewedImage:
    """An image to look at.

    `label` is the index of its class, if known, and `key` tells the image from all others. `mask`
    marks the pixels that show the object, for demo scenes.
    """

    name: str
    image: Image.Image
    label: int | None
    key: object
    mask: Mask | None = None


def of_set(number: int) -> ViewedImage:
    """Image `number` of the loaded images."""
    images = session.images()
    key = (session.choice().data, number)
    return ViewedImage(
        images.item_name(number), images.image(number), images.label(number), key, images.mask(number)
    )


def caption(image: ViewedImage, class_names: Sequence[str]) -> str:
    """An image's class and name, or its name alone where that begins with the class's folder."""
    known = None if image.label is None else class_names[image.label]
    if known is None or image.name.startswith(f"{known}/"):
        return wording.plain(image.name)
    return wording.plain(f"{known} · {image.name}")


# ---- what a model computes


def cropped(image: ViewedImage, loaded: LoadedModel) -> Image.Image:
    """The part of the image that the model's patches cover, at the model's resolution."""
    make = lambda: covered(image.image, loaded.preprocess, loaded.model.arch)
    return memo.remember("crop", (loaded.preprocess, image.key), make)


def trace_of(image: ViewedImage, loaded: LoadedModel) -> Trace:
    """Queries and keys of every block, from which all maps are drawn; those of the newest few are kept."""
    make = lambda: trace.trace(loaded.model, loaded.preprocess(image.image))
    fitting = TRACES_MB * 10**6 // trace.held_bytes(loaded.model.arch)
    return memo.remember("trace", (loaded, image.key), make, keep=max(1, fitting))


def gradients_of(image: ViewedImage, loaded: LoadedModel, label: int, classifier: str) -> Gradients:
    """Attention and its gradients for the logit of a class; those of the last two are kept."""
    make = lambda: relevance.gradients(loaded.model, loaded.preprocess(image.image), label, classifier)
    return memo.remember("gradients", (loaded, image.key, label, classifier), make, keep=2)


def maps(image: ViewedImage, loaded: LoadedModel) -> AttentionMaps:
    """Maps of all heads, from each prefix token and from the mean over patches."""
    return maps_of(trace_of(image, loaded))


def rollout(image: ViewedImage, loaded: LoadedModel, fuse: str) -> Tensor:
    """Rollout through all blocks from the same rows, R Y X."""
    return rollout_of(trace_of(image, loaded), row_readings(loaded.model.arch), fuse=fuse)


def prediction_row(loaded: LoadedModel) -> int:
    """The row of `maps` and `rollout` that the prediction is read from."""
    return default_row(loaded.model.arch)


# ---- how maps are drawn


def style() -> Style:
    """Colours and opacity as last chosen on the Attention page."""
    state = st.session_state
    return Style(
        state.get("palette", Style.palette),
        state.get("opacity", 100 * Style.opacity) / 100,
        state.get("smooth", Style.smooth),
    )
