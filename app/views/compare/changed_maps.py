"""The Compare page's order of photos: those first in which the attention changed most."""

from __future__ import annotations

import streamlit as st
from PIL import Image
from torch import Tensor

from analysis.attention import default_row, rollout_of, row_readings, share_moved, thumbnail, trace
from analysis.models import LoadedModel
from app import wording
from app.parts import picker
from app.parts.pictures import strip
from app.progress_bar import progress_bar
from app.state import memo
from pruning.report import Comparison

AMONG = 64  # photos, evenly spaced, of which the attention is read
STRIP, SIDE = 10, 90  # photos shown, pixels of one


def show(found: Comparison, number: int, key: str) -> None:
    """A strip of the photos in which most attention moved; a click on one writes its number to `key`.

    Raises:
        ValueError: none of the models can be compared with the dense one.
    """
    order = _order(found)[:STRIP]
    numbers = [image for image, _ in order]

    def pick(cell: picker.Cell) -> None:
        st.session_state[key] = numbers[cell[0]]

    chosen = (numbers.index(number), 0) if number in numbers else None
    preprocess = found.load(found.dense.source).preprocess
    row = strip([thumbnail(found.tested.image(image), preprocess, SIDE) for image in numbers], SIDE)
    cells = picker.of_strip(row, len(numbers))
    picker.show(cells, chosen, pick, "compare-changed", "the photos in which the attention changed most")
    shares = ", ".join(wording.percent(share, 0) for _, share in order)
    st.caption(
        f"Click a photo. The share of attention that lies elsewhere than in the dense model, by rollout from "
        f"the token that the prediction is read from: {shares}. Measured on "
        f"{wording.count(len(_order(found)))} of {wording.count(len(found.tested))} test images."
    )


def _order(found: Comparison) -> list[tuple[int, float]]:
    """Numbers of photos and the share of attention that moved, the mean over models; the largest first."""
    others = [model for model in found.others if model.has_maps_like(found.dense.arch)]
    if not others:
        raise ValueError("The blocks or tokens of these models differ from those of the dense one.")
    count = min(AMONG, len(found.tested))
    numbers = [place * len(found.tested) // count for place in range(count)]
    key = (found.dense.source, tuple(model.source for model in others), found.data, count)

    def measure() -> list[tuple[int, float]]:
        dense, models = found.load(found.dense.source), [found.load(model.source) for model in others]
        moved = {}
        with progress_bar() as progress:
            for place, number in enumerate(numbers):
                progress("Comparing attention", place / count)
                photo = found.tested.image(number)
                before = _rollout(dense, photo)
                shares = [float(share_moved(before, _rollout(model, photo))) for model in models]
                moved[number] = sum(shares) / len(shares)
        return sorted(moved.items(), key=lambda one: -one[1])

    return memo.remember("changed maps", key, measure, keep=8)


def _rollout(loaded: LoadedModel, photo: Image.Image) -> Tensor:
    read = trace.trace(loaded.model, loaded.preprocess(photo))
    row = default_row(loaded.model.arch)
    return rollout_of(read, row_readings(loaded.model.arch)[row : row + 1])[0]
