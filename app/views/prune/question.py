"""How much smaller: the one question that the Prune page begins with, as a share of the dense model."""

from __future__ import annotations

import statistics
from dataclasses import replace

import streamlit as st

from analysis.measure import cost, take_turns, torch_runner
from analysis.models import LoadedModel
from analysis.vit import Architecture
from app import wording
from app.state import address, memo, session
from pruning.budget import BUDGETED_STRUCTURES, Budget, measured_widths, widths_on_grid

UNITS = {"gmacs": "Compute", "ms": "Time", "params": "Parameters"}
_UNIT = "smaller-unit"
LEAST, STEP, START = 5, 5, 40  # percent less than the dense model
MOST_MERGING = 45  # percent; what merging saves alone, about
MOST_TIME = 70  # percent; how little time is possible is only known once it is measured
_LABELS = {
    "gmacs": "How much less to compute?",
    "ms": "How much less time for an image?",
    "params": "How many parameters fewer?",
}


def unit_now() -> str:
    """What the question asks for, for widgets that are drawn before it."""
    asked = st.session_state.get(_UNIT) or st.query_params.get("less", "gmacs")
    return asked if asked in UNITS else "gmacs"


def unit() -> str:
    """What the smaller model is to have less of."""
    return address.pick(
        "less",
        _UNIT,
        list(UNITS),
        lambda: st.segmented_control(
            "In what?",
            list(UNITS),
            format_func=UNITS.__getitem__,
            required=True,
            key=_UNIT,
            label_visibility="collapsed",
            persist_state="session",
        ),
    )


def ask(loaded: LoadedModel, align: int, narrows: bool) -> Budget:
    """Draw the question; returns the budget that its answer stands for.

    `narrows` is whether the method narrows anything; one that does not, merges tokens alone.
    """
    dense = loaded.model.arch
    asked = unit()
    highest = MOST_TIME if asked == "ms" else most(dense, align, asked)
    percent = _percent(asked, highest if narrows else min(highest, MOST_MERGING))
    kept = 1 - percent / 100
    if asked == "ms":
        whole = dense_ms()
        budget = Budget(ms=float(f"{kept * whole:.4g}"))
        _say(wording.milliseconds(kept * whole), wording.milliseconds(whole))
        st.caption(
            "For one image at a time, in PyTorch on this machine. Other devices: under **More choices**."
        )
    elif asked == "params":
        params = cost(dense).params
        budget = Budget(params=round(kept * params))
        _say(f"{wording.millions(round(kept * params))} parameters", wording.millions(params))
    else:
        gmacs = cost(dense).gmacs
        budget = Budget(gmacs=float(f"{kept * gmacs:.4g}"))
        _say(f"{wording.gmacs(kept * gmacs)} for an image", wording.gmacs(gmacs))
    return budget


def _say(smaller: str, dense: str) -> None:
    with st.container(key="smaller-words"):
        st.markdown(f"**{smaller}** instead of {dense}.")


def _percent(asked: str, highest: int) -> int:
    """The slider. Its value is kept in the address, and moved into its range where a model has another."""
    key = f"smaller-{asked}"
    highest = max(highest, LEAST + STEP)
    before = st.session_state.get(key)
    if isinstance(before, int) and before > highest:
        st.session_state[key] = highest
    chosen: int = st.slider(
        _LABELS[asked],
        LEAST,
        highest,
        min(START, highest),
        step=STEP,
        format="%d %% less",
        key=key,
        bind="query-params",
        persist_state="session",
    )
    return chosen


def most(dense: Architecture, align: int, kind: str) -> int:
    """The percentage by which a budget can shrink a model at most, in whole steps of the slider."""
    quantity = {"gmacs": "macs", "params": "params"}[kind]
    least: int = getattr(cost(_narrowest(dense, align)), quantity)
    whole: int = getattr(cost(dense), quantity)
    return 100 * (whole - least) // whole // STEP * STEP


def _narrowest(dense: Architecture, align: int) -> Architecture:
    """The model with every structure as narrow as sensitivities are measured."""

    def least(width: int) -> int:
        return widths_on_grid(width, measured_widths(width)[-1], align)[-1]

    blocks = (
        replace(block, **{name: least(getattr(block, name)) for name in BUDGETED_STRUCTURES})
        for block in dense.blocks
    )
    return replace(dense, blocks=tuple(blocks))


def dense_ms() -> float:
    """Milliseconds of the loaded model for one image on this machine; measured once in a session."""
    loaded = session.model()

    def measure() -> float:
        arch = loaded.model.arch
        shape = arch.in_channels, *arch.image_size
        timed = take_turns([torch_runner(loaded.model)], shape, (1,), rounds=7, looks=1, warmup=2)
        return statistics.median(timed[1][0])

    return memo.remember("dense ms", loaded, measure, keep=4)
