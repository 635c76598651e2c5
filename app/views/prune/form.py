"""The widgets of the Prune page that make a `Job`: method, options, what to remove, rounding."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pandas as pd
import streamlit as st

from analysis.measure import Cost, cost
from analysis.vit import Architecture
from app.parts import feedback
from app.parts.options_form import options
from app.state import devices, head_locks, session, uploads
from app.wording import STRUCTURE_TITLES
from pruning.budget import Budget
from pruning.criteria import CRITERIA
from pruning.cut import PerBlock, Ratios, presets
from pruning.jobs import Job, default_align, default_skip_unread
from pruning.methods import METHODS
from pruning.options import Value

MODES = {"sliders": "Sliders", "blocks": "Per block", "preset": "Preset", "budget": "Budget"}
START = {"qk": 50}  # percent removed when the page first opens
HIGHEST = 95
ALIGN = (1, 4, 8, 16)
BUDGETS = {"gmacs": "GMACs", "params": "Parameters", "ms": "Latency"}
BATCHES = (1, 8)
TIMED_BY = {
    "torch": "This machine, PyTorch",
    "onnx": "This machine, ONNX Runtime",
    "onnx-int8": "This machine, ONNX Runtime, int8",
    "device": "Another device",
    "device-int8": "Another device, int8",
}
SHARE = 0.75  # of the dense model's cost: where a budget starts
HELP = {
    "qk": "Channel i of a head's queries and channel i of its keys are removed together.",
    "v": "Value channels of a head, together with the columns of the projection that read them.",
    "mlp": "Hidden neurons of the MLP.",
    "heads": "Whole heads, with all their query-key pairs and value channels.",
    "embed": "Channels of the residual stream, removed throughout the network.",
}
PER_BLOCK = tuple(name for name in STRUCTURE_TITLES if name != "embed")


def job(dense: Architecture) -> Job:
    """The run that the widgets describe.

    Raises:
        ValueError: ratios that no run can have.
    """
    method, options = _method()
    mode = _mode(dense)
    preset = _preset(dense) if mode == "preset" else None
    ratios = _sliders() if mode == "sliders" else _per_block(dense) if mode == "blocks" else Ratios()
    budget = _budget(cost(dense)) if mode == "budget" else None
    runtime, device = _timed_by() if budget is not None and budget.kind == "ms" else (None, None)
    align = st.segmented_control(
        "Round widths to multiples of",
        ALIGN,
        default=default_align(budget),
        required=True,
        key="align-budget" if budget else "align",
        persist_state="session",
        help="Multiples of 8 run faster on most hardware.",
    )
    skip_unread = _skip_unread(dense, budget)
    heads_by, compensate = _besides(method, ratios)
    _locked()
    chosen = session.choice()
    return Job(
        model=chosen.model,
        weights=chosen.weights,
        reading=chosen.reading,
        data=chosen.data or "",
        method=method,
        options=options,
        ratios=ratios,
        preset=preset,
        budget=budget,
        align=align,
        limit=chosen.limit,
        heads_by=heads_by,
        compensate=compensate,
        locks=head_locks.locks(),
        skip_unread=skip_unread,
        runtime=runtime,
        device=device,
    )


def _skip_unread(dense: Architecture, budget: Budget | None) -> bool:
    """Whether the last block computes only the tokens that the classifier reads.

    The user is not asked if the classifier reads all tokens, or if the model skips the others already:
    what is made from such a model skips them, too.
    """
    default = default_skip_unread(budget)
    if dense.pool != "token" or dense.skip_unread:
        return default
    whole, less = (cost(replace(dense, skip_unread=skip)).macs for skip in (False, True))
    chosen: bool = st.toggle(
        "Skip tokens that the classifier does not read",
        value=default,
        key="skip-unread-budget" if default else "skip-unread",
        persist_state="session",
        help="After the last block the classifier reads only its own token. Leaving the others out of "
        f"that block saves {100 * (whole - less) / whole:.1f} % of the MACs and changes no prediction."
        + (" A budget with room for all tokens keeps them." if default else ""),
    )
    return chosen


def _locked() -> None:
    """The heads locked on the Heads page: locks hold whatever is chosen here."""
    said = head_locks.sentence()
    if said:
        with st.container(horizontal=True, vertical_alignment="center", key="locked"):
            st.markdown(f":material/lock: {said}.", width="content")
            st.button("Clear", key="clear-locks", on_click=head_locks.clear)
            feedback.link("heads", "Heads", ":material/hub:")


def _besides(method: str, ratios: Ratios) -> tuple[str | None, bool]:
    """What may go with the method: heads removed first by another criterion, and a refit afterwards."""
    chosen, heads_by, compensate = METHODS[method], None, False
    removes_heads = not replace(Ratios(), heads=ratios.heads).removes_nothing
    if removes_heads and chosen.heads_first:
        ranking = [name for name, criterion in CRITERIA.items() if "heads" in criterion.ranks]
        named = {name: CRITERIA[name].title for name in ranking}
        heads_by = st.selectbox(
            "Heads removed first by",
            ranking,
            index=None if chosen.ranks_heads else ranking.index("taylor"),
            format_func=named.__getitem__,
            placeholder="The method itself",
            key="heads-by-chooses" if chosen.ranks_heads else "heads-by",
            persist_state="session",
            help="The method then works inside the heads that stay.",
        )
    if chosen.chooses:
        compensate = st.toggle(
            "Compensate",
            key="compensate",
            persist_state="session",
            help="Refit the layers that read what was removed, by least squares. Published methods do not.",
        )
    return heads_by, compensate


def _method() -> tuple[str, tuple[tuple[str, Value], ...]]:
    """A method, and those of its options that are not at their default."""
    method = st.selectbox(
        "Method",
        list(METHODS),
        format_func=lambda name: METHODS[name].title,
        key="method",
        persist_state="session",
    )
    st.caption(METHODS[method].explanation)
    return method, options(METHODS[method].options(), f"option-{method}").changed()


def fitting_presets(dense: Architecture) -> list[str]:
    """Published presets for a model of this shape."""
    shape = dense.depth, dense.embed_dim
    return [name for name, preset in presets().items() if (preset.depth, preset.embed_dim) == shape]


def _mode(dense: Architecture) -> str:
    modes = [mode for mode in MODES if mode != "preset" or fitting_presets(dense)]
    if st.session_state.get("mode") not in (None, *modes):  # another model, which no preset fits
        del st.session_state["mode"]
    mode: str = st.segmented_control(
        "What to remove",
        modes,
        format_func=MODES.__getitem__,
        default=modes[0],
        required=True,
        key="mode",
        persist_state="session",
    )
    return mode


def _preset(dense: Architecture) -> str:
    names = fitting_presets(dense)
    chosen: str = st.selectbox("Preset", names, key=f"preset-{names[0]}", persist_state="session")
    st.caption("Fractions per block as published with SNP (Shim et al., ECCV 2024).")
    return chosen


def _sliders() -> Ratios:
    removed = {
        name: st.slider(
            label,
            0,
            HIGHEST,
            START.get(name, 0),
            format="%d %% removed",
            key=f"ratio-{name}",
            help=HELP[name],
            persist_state="session",
        )
        for name, label in STRUCTURE_TITLES.items()
    }
    return Ratios(**{name: value / 100 for name, value in removed.items()})


def _budget(whole: Cost) -> Budget:
    """What the smaller model may cost, in one of three units."""
    kind = st.segmented_control(
        "Budget in",
        list(BUDGETS),
        format_func=BUDGETS.__getitem__,
        default="gmacs",
        required=True,
        key="budget-kind",
        persist_state="session",
    )
    if kind == "gmacs":
        return Budget(gmacs=_amount("GMACs per image", whole.gmacs, f"budget-gmacs-{whole.params}"))
    if kind == "params":
        millions = _amount("Million parameters", whole.params / 1e6, f"budget-params-{whole.params}")
        return Budget(params=round(millions * 1e6))
    ms: float = st.number_input(
        "Milliseconds per batch, at most",
        min_value=0.001,
        value=10.0,
        step=1.0,
        format="%g",
        key="budget-ms",
        persist_state="session",
    )
    batch = st.segmented_control(
        "Images in a batch",
        BATCHES,
        default=BATCHES[0],
        required=True,
        key="budget-batch",
        persist_state="session",
    )
    return Budget(ms=ms, batch=batch)


def _timed_by() -> tuple[str | None, str | None]:
    """What a budget in ms is timed by: a runtime on this machine, or the file of another device.

    The path is empty as long as another device is asked for and there is no file of one.
    """
    chosen = st.selectbox(
        "Device",
        list(TIMED_BY),
        format_func=TIMED_BY.__getitem__,
        key="budget-device",
        persist_state="session",
        help="Another device is one on which a benchmark kit has run: the command `kit` makes one.",
    )
    if not chosen.startswith("device"):
        return (None if chosen == "torch" else chosen), None
    given = st.file_uploader(
        "device.json of a benchmark kit",
        type="json",
        accept_multiple_files=True,
        key="device-upload",
        max_upload_size=uploads.MAX_UPLOAD_MB["device"],
    )
    with feedback.sentences():
        devices.add(given)
    known = {path: devices.name(path) for path in devices.devices()}
    if not known:
        return None, ""
    path: str = st.selectbox(
        "Measured on",
        list(known),
        index=len(known) - 1,
        format_func=known.__getitem__,
        key=f"device-{len(known)}",
    )
    return ("onnx-int8" if chosen == "device-int8" else None), path


def _amount(label: str, dense: float, key: str) -> float:
    """A number field that starts below the dense model's cost, with a fitting step."""
    step = 10.0 ** math.floor(math.log10(dense)) / 10
    chosen: float = st.number_input(
        f"{label}, at most (dense: {dense:.4g})",
        min_value=step / 1000,
        value=float(f"{SHARE * dense:.3g}"),
        step=step,
        format="%g",
        key=key,
        persist_state="session",
    )
    return chosen


def _per_block(dense: Architecture) -> Ratios:
    """A table of percentages. It is kept beside the widget, so that leaving the page loses nothing."""
    key = f"blocks-{dense.depth}"
    if f"{key}-editor" not in st.session_state:  # the page was left, and the widget's edits with it
        st.session_state[f"{key}-start"] = st.session_state.get(key, _starting_table(dense.depth))
    table: Any = st.data_editor(
        st.session_state[f"{key}-start"],
        key=f"{key}-editor",
        column_config={name: _column(name) for name in PER_BLOCK},
        height=min(38 + 35 * dense.depth, 470),
        row_height=35,
    )
    st.session_state[key] = table
    embed = st.slider(
        STRUCTURE_TITLES["embed"],
        0,
        HIGHEST,
        0,
        format="%d %% removed",
        key="ratio-embed",
        help=HELP["embed"],
        persist_state="session",
    )
    return Ratios(**{name: _fractions(table[name]) for name in PER_BLOCK}, embed=embed / 100)


def _starting_table(depth: int) -> pd.DataFrame:
    """The sliders' values in every block."""
    columns = {name: st.session_state.get(f"ratio-{name}", START.get(name, 0)) for name in PER_BLOCK}
    return pd.DataFrame(columns, index=pd.RangeIndex(depth, name="block"))


def _column(name: str) -> Any:
    return st.column_config.NumberColumn(
        f"{name} %",
        width={"v": 58, "heads": 82}.get(name, 66),
        help=HELP[name],
        min_value=0,
        max_value=HIGHEST,
        step=1,
        required=True,
    )


def _fractions(column: Any) -> PerBlock:
    values = tuple(round(float(value) / 100, 4) for value in column)
    return values[0] if len(set(values)) == 1 else values
