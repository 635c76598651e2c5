"""One image under the loaded model, and what was read from it; shared by the pages that show maps."""

from __future__ import annotations

from dataclasses import dataclass

import streamlit as st
from PIL import Image
from torch import Tensor

from analysis import traces as reading
from analysis.maps import AttentionMaps, default_row, maps_of, rollout_of, row_readings
from analysis.models import LoadedModel
from analysis.traces import Trace
from app import session, words
from app.pictures import Style


@dataclass(frozen=True)
class Look:
    """An image to look at. `label` is its class if known; `key` tells it from all others."""

    name: str
    image: Image.Image
    label: int | None
    key: object


def of_set(number: int) -> Look:
    """Image `number` of the loaded images."""
    found = session.images()
    key = (session.choice().data, number)
    return Look(found.item_name(number), found.image(number), found.label(number), key)


def pick_number(key: str, count: int) -> int:
    """A number below `count` with buttons for the one before and the next."""
    st.session_state[key] = min(st.session_state.get(key, 0), count - 1)

    def step(by: int) -> None:
        st.session_state[key] = (st.session_state[key] + by) % count

    st.button(
        "", icon=":material/chevron_left:", key=f"{key}-previous", on_click=step, args=(-1,), help="Previous"
    )
    number: int = st.number_input(
        f"Number, 0 to {count - 1:,}", 0, count - 1, key=key, width=150, persist_state="session"
    )
    st.button("", icon=":material/chevron_right:", key=f"{key}-next", on_click=step, args=(1,), help="Next")
    return number


def caption(look: Look) -> str:
    """Name and true class of an image."""
    name = look.name if look.label is None else f"{session.class_name(look.label)} · {look.name}"
    return words.plain(name)


def cropped(look: Look) -> Image.Image:
    """The part of the image the model sees, at its resolution."""
    loaded = session.model()
    return session.remember("crop", (loaded.preprocess, look.key), lambda: loaded.preprocess.crop(look.image))


def trace(look: Look, loaded: LoadedModel | None = None) -> Trace:
    """The image's way through the model: all maps are drawn from it. The newest few are kept."""
    shown = loaded or session.model()
    make = lambda: reading.trace(shown.model, _input(look, shown))
    return session.remember("trace", (shown, look.key), make, keep=8)


def maps(look: Look, loaded: LoadedModel | None = None) -> AttentionMaps:
    """Maps of all heads from each prefix token and from the mean over patches."""
    return maps_of(trace(look, loaded))


def rollout(
    look: Look, fuse: str, discard: float, blocks: int | None = None, loaded: LoadedModel | None = None
) -> Tensor:
    """Rollout maps, R Y X."""
    seen = trace(look, loaded)
    return rollout_of(seen, row_readings(seen.arch), fuse=fuse, discard=discard, blocks=blocks)


def _input(look: Look, loaded: LoadedModel) -> Tensor:
    return loaded.preprocess(look.image)


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
