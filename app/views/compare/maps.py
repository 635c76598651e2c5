"""The Compare page's maps: where the models look in the same image, and which heads still look there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import streamlit as st
from PIL import Image as Picture
from PIL.Image import Image
from torch import Tensor

from analysis.attention import FUSIONS, enlarge, overlay, preservation, sheet
from app import wording
from app.glossary import meaning
from app.parts import charts_heads, feedback, image_picker
from app.parts.keys import keys
from app.parts.wipe import wipe
from app.progress_bar import progress_bar
from app.state import address, memo, viewed_image
from app.state.viewed_image import ViewedImage
from app.views.compare import changed_maps
from app.views.compare import charts as compare_charts
from pruning.cut import Indices
from pruning.report import ComparedModel, Comparison, aligned

SIDE = 460  # pixels of a picture
VIEWS = {"wipe": "Wipe", "beside": "Side by side"}
ORDERS = {"number": "By number", "changed": "Where attention changed most"}
ROOM, CELL = 880, 64  # pixels: width of two sheets of maps, largest map in them
SEVERAL = 16  # images that preservation is averaged over
MERGED = (
    " Where patches have merged, they all look where their token looks, and share what it is paid alike; "
    "maps are compared patch by patch."
)
OVER = {"one": "This image", "several": f"{SEVERAL} images"}


def show(found: Comparison) -> None:
    """Rollout, one head, and how well the attention of all heads is preserved."""
    image, view = _choose(found)
    crop = enlarge(_crop(found, image), SIDE)
    if view == "wipe" and len(found.models) == 2:  # all of it stands in one row
        photo, rollout, head_map = st.columns(3, gap="small")
        _rollouts(found, image, crop, view, [photo, rollout])
        shown = head_map.container()
        block, head = _one_head(found, image, crop, view, [head_map.container(), shown])
    else:
        _rollouts(found, image, crop, view, _columns(found, view))
        block, head = _one_head(found, image, crop, view, _columns(found, view))
    _preserved(found, image, (block, head))
    with st.expander(
        "Maps of all heads", icon=":material/grid_view:", key="compare-all", on_change="rerun"
    ) as all_heads:
        if all_heads.open:
            _sheets(found, image)


def _choose(found: Comparison) -> tuple[ViewedImage, str]:
    """The photo to look at, and whether maps are wiped or stand side by side."""
    given = address.read_once("image")
    if given is not None and given[0].isdecimal():
        st.session_state["compare-image"] = int(given[0])
    changed = st.container(key="changed-maps", gap="xsmall")
    with st.container(horizontal=True, vertical_alignment="bottom", key="rollout-choice"):
        number = image_picker.pick_number("compare-image", len(found.tested))
        order = _one_of("Photos", ORDERS, "order", "compare-order")
        view = _one_of("Show maps", VIEWS, "maps", "compare-view")
        key, fusions = "compare-fuse", list(FUSIONS)
        draw = lambda: st.selectbox("Fuse heads by", fusions, key=key, width=150, persist_state="session")
        address.pick("fuse", key, fusions, draw)
    address.write("image", [str(number)] if number else [])
    if order == "changed":
        with changed, feedback.sentences():
            changed_maps.show(found, number, "compare-image")
    return _tested_image(found, number), view


def _one_of(label: str, options: dict[str, str], name: str, key: str) -> str:
    """One of a few options, which the address carries."""

    def draw() -> str | None:
        chosen: str | None = st.segmented_control(
            label,
            list(options),
            format_func=options.__getitem__,
            required=True,
            key=key,
            persist_state="session",
        )
        return chosen

    return address.pick(name, key, list(options), draw)


def _tested_image(found: Comparison, number: int) -> ViewedImage:
    """Test image `number` of the comparison."""
    test = found.tested
    key = (found.dense.source, found.data, test.item_name(number))
    return ViewedImage(test.item_name(number), test.image(number), test.label(number), key)


def _columns(found: Comparison, view: str) -> Any:
    """A column for the photo and one for each map; at least two, or three where each model has its own."""
    count = len(found.models) + (view == "beside")
    return st.columns(max(count, 2 if view == "wipe" else 3), gap="small")


def _rollouts(found: Comparison, image: ViewedImage, crop: Image, view: str, columns: Sequence[Any]) -> None:
    number = st.session_state["compare-image"]
    first, *others = columns
    with first:
        st.image(crop, width="stretch", alt=f"the image as the models see it: {image.name}")
        true = found.class_name(found.dense.result.labels[number])
        st.caption(f"{wording.plain(true)} · {wording.plain(image.name)}")
    fuse = st.session_state["compare-fuse"]
    drawn = [_Drawn(model, _rollout(found, model, image, crop, fuse)) for model in found.models]
    for shown, column in zip(drawn if view == "beside" else drawn[1:], others, strict=False):
        model = shown.model
        predicted = found.class_name(model.result.predictions[number])
        confidence = wording.percent(model.result.confidences[number])
        with column:
            shown.show(drawn[0] if view == "wipe" else None, "rollout")
            st.caption(f"Rollout, **{wording.plain(model.name)}**: {wording.plain(predicted)}, {confidence}")


def _rollout(found: Comparison, model: ComparedModel, image: ViewedImage, crop: Image, fuse: str) -> Image:
    loaded = found.load(model.source)
    with st.spinner(f"Reading {wording.plain(model.name)} …", show_time=False):
        values = viewed_image.rollout(image, loaded, fuse)[viewed_image.prediction_row(loaded)]
    return overlay(crop, values.numpy(), viewed_image.style())


@dataclass(frozen=True, eq=False)
class _Drawn:
    """A map of a model as a picture."""

    model: ComparedModel
    picture: Image

    def show(self, dense: _Drawn | None, what: str) -> None:
        """Show it by itself, or with a line that wipes between the dense model's map and this one."""
        if dense is None:
            st.image(self.picture, width="stretch", alt=f"{what} of {self.model.name}")
            return
        names = dense.model.name, self.model.name
        alt = f"{what} in {names[0]} on the left of the line, in {names[1]} on its right"
        wipe.show(dense.picture, self.picture, names, f"wipe-{what}-{self.model.name}", alt)


# ---- one head


def _pick_head(found: Comparison) -> tuple[int, int]:
    """A head of the dense model, by block and number, which clicks on the charts below set, too."""
    blocks, state = found.dense.arch.blocks, st.session_state
    wanted = state.pop("compare clicked", None) or _given_head()
    if wanted is not None:
        state["compare-block"], state["compare-head"] = wanted
    _within("compare-block", len(blocks) - 1, len(blocks) // 2)
    block = st.number_input(
        "Block", 0, len(blocks) - 1, key="compare-block", width=110, persist_state="session"
    )
    last = max(blocks[block].heads - 1, 0)
    _within("compare-head", last, 0)
    head = st.number_input("Head", 0, last, key="compare-head", width=110, persist_state="session")
    address.write("head", [f"{block}.{head}"])
    keys.offer_heads((block, head), tuple(widths.heads for widths in blocks), _pick)
    return block, head


def _pick(head: tuple[int, int]) -> None:
    """Show this head from now on, from a callback."""
    st.session_state["compare clicked"] = head


def _given_head() -> tuple[int, int] | None:
    """Block and head in the address, as BLOCK.HEAD."""
    block, _, head = (address.read_once("head") or [""])[0].partition(".")
    return (int(block), int(head)) if block.isdecimal() and head.isdecimal() else None


def _within(key: str, high: int, start: int) -> None:
    # another model may have fewer, and the widget refuses a number beyond its range
    st.session_state[key] = min(st.session_state.get(key, start), high)


def _one_head(
    found: Comparison, image: ViewedImage, crop: Image, view: str, columns: Sequence[Any]
) -> tuple[int, int]:
    """The same head in every model, chosen by its number in the dense one."""
    first, *others = columns
    with first:
        st.subheader("One head", anchor=False)
        with st.container(horizontal=True, key="compare-head-choice"):
            block, head = _pick_head(found)
        st.caption("Or click a square below.")
    drawn = [_head_of(found, model, image, crop, (block, head)) for model in found.models]
    shown = drawn if view == "beside" else drawn[1:]
    for one, column in zip(shown, others, strict=False):
        with column:
            one.show(drawn[0] if view == "wipe" else None, "head")
            st.caption(_of_head(found, one.model, (block, head)))
    return block, head


def _head_of(
    found: Comparison, model: ComparedModel, image: ViewedImage, crop: Image, head: tuple[int, int]
) -> _Drawn:
    """A dense head's map in a model, blank where it was removed."""
    place = place_of(model.kept(found.dense.arch)[head[0]], head[1])
    if place is None:
        return _Drawn(model, Picture.new("RGBA", crop.size, "#8a969030"))  # faint in both themes
    loaded = found.load(model.source)
    values = viewed_image.maps(image, loaded).blocks[head[0]][place, viewed_image.prediction_row(loaded)]
    return _Drawn(model, overlay(crop, values.numpy(), viewed_image.style()))


def _of_head(found: Comparison, model: ComparedModel, head: tuple[int, int]) -> str:
    """What became of a dense head in a model."""
    heads = model.kept(found.dense.arch)[head[0]]
    place = place_of(heads, head[1])
    what = f"Block {head[0]}, head {head[1]}, **{wording.plain(model.name)}**"
    if place is None:
        missing = "not known" if heads is None else "removed"
        missing = missing if model.arch.blocks[head[0]].heads else "no attention in this block"
        return f"{what}: {missing}"
    return what + (f", its head {place}" if place != head[1] else "")


def place_of(kept: Indices | None, head: int) -> int | None:
    """The place of a dense head among those kept; None if it was removed, or if that is not known."""
    return kept.index(head) if kept is not None and head in kept else None


# ---- all heads


def _over() -> str:
    def draw() -> str | None:
        chosen: str | None = st.segmented_control(
            "Averaged over",
            list(OVER),
            format_func=OVER.__getitem__,
            required=True,
            key="compare-over",
            persist_state="session",
        )
        return chosen

    return address.pick("over", "compare-over", list(OVER), draw)


def _preserved(found: Comparison, image: ViewedImage, chosen: tuple[int, int]) -> None:
    st.subheader("Attention preservation", anchor=False, help=meaning("Attention preservation", "Head"))
    over = _over()
    st.caption(
        "Cosine between a head's maps in the dense and in the smaller model; 1 means that it looks exactly "
        "where it did before. Removed heads are hollow."
        + (MERGED if any(model.arch.merges for model in found.models) else "")
    )
    for start in range(0, len(found.others), 2):
        for model, column in zip(found.others[start : start + 2], st.columns(2, gap="medium"), strict=False):
            with column:
                _preserved_by(found, model, image, over, chosen)


def _preservation(
    found: Comparison, model: ComparedModel, image: ViewedImage, over: str
) -> tuple[Tensor, ...]:
    dense, small = found.load(found.dense.source), found.load(model.source)
    several = found.tested.sample(min(SEVERAL, len(found.tested))) if over == "several" else None
    measured_on = image.key if several is None else "several"
    key = (found.dense.source, model.source, measured_on, found.data)  # no models, which would stay in memory

    def measure() -> tuple[Tensor, ...]:
        images = [image.image] if several is None else [several.image(i) for i in range(len(several))]
        with progress_bar() as progress:
            batches = _with_progress(
                (dense.preprocess(image)[None] for image in images), len(images), progress
            )
            return preservation(dense.model, small.model, batches, model.kept(dense.model.arch))

    return memo.remember("preservation", key, measure)


def _with_progress(images: Any, count: int, progress: Any) -> Any:
    for done, image in enumerate(images):
        if count > 1:
            progress("Comparing attention", done / count)
        yield image


def _preserved_by(
    found: Comparison, model: ComparedModel, image: ViewedImage, over: str, chosen: tuple[int, int]
) -> None:
    slot = st.empty()
    slot.markdown(f"**{wording.plain(model.name)}**")
    if not any(model.kept(found.dense.arch)):
        why = (
            "its bundle has no plan that says which heads were kept"
            if model.has_maps_like(found.dense.arch)
            else "its blocks or tokens differ from those of the dense model"
        )
        st.caption(f"This model cannot be compared: {why}.")
        return
    values = _preservation(found, model, image, over)
    known = [value for row in values for value in row.tolist() if value == value]
    slot.markdown(f"**{wording.plain(model.name)}**, {sum(known) / len(known):.3f} on average")
    figure = compare_charts.preserved([row.tolist() for row in values], chosen)
    alt = f"attention preservation of {model.name}, blocks from left to right, heads from top to bottom"
    charts_heads.show(figure, f"preserved-{model.name}", _show_head, alt)


def _show_head(head: tuple[int, int]) -> None:
    st.session_state["compare clicked"] = head


def _sheets(found: Comparison, image: ViewedImage) -> None:
    """The maps of all heads of every model; the place of a removed head stays blank."""
    crop = _crop(found, image)
    wide = ROOM // min(len(found.models), 2)
    for start in range(0, len(found.models), 2):
        pair = found.models[start : start + 2]
        for model, column in zip(pair, st.columns(2, gap="medium"), strict=False):
            loaded = found.load(model.source)
            row, kept = viewed_image.prediction_row(loaded), model.kept(found.dense.arch)
            planes = aligned(viewed_image.maps(image, loaded), row, kept, found.dense.arch)
            with column:
                st.markdown(f"**{wording.plain(model.name)}**")
                alt = f"attention maps of {model.name}, blocks from left to right, heads from top to bottom"
                st.image(sheet(crop, planes, wide, CELL, viewed_image.style()), alt=alt)


def _crop(found: Comparison, image: ViewedImage) -> Image:
    """The part of an image that the models see, at their resolution."""
    return viewed_image.cropped(image, found.load(found.dense.source))
