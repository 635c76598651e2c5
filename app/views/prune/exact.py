"""An exact budget: an amount in one of three units, and for milliseconds the device that is timed."""

from __future__ import annotations

import math

import streamlit as st

from analysis.measure import Cost
from app.parts import feedback
from app.state import devices, uploads
from app.views.prune.offered import BIND
from pruning.budget import Budget

BUDGETS = {"gmacs": "GMACs", "params": "Parameters", "ms": "Latency"}
BATCHES = (1, 8)
TIMED_BY = {
    "torch": "This machine, PyTorch",
    "onnx": "This machine, ONNX Runtime",
    "onnx-int8": "This machine, ONNX Runtime, int8",
    "device": "Another device",
    "device-int8": "Another device, int8",
}
SHARE = 0.6  # of the dense model's cost: where a budget starts


def budget(whole: Cost) -> Budget:
    """What the smaller model may cost, in one of three units."""
    kind = st.segmented_control(
        "Budget in",
        list(BUDGETS),
        format_func=BUDGETS.__getitem__,
        default="gmacs",
        required=True,
        key="budget-kind",
        bind=BIND,
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
        bind=BIND,
        persist_state="session",
    )
    batch = st.segmented_control(
        "Images in a batch",
        BATCHES,
        default=BATCHES[0],
        required=True,
        key="budget-batch",
        bind=BIND,
        persist_state="session",
    )
    return Budget(ms=ms, batch=batch)


def timed_by() -> tuple[str | None, str | None]:
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
        bind=BIND,
        persist_state="session",
    )
    return chosen
