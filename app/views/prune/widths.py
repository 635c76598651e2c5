"""Widths that the user chooses: sliders, a table with a row for each block, a published preset."""

from __future__ import annotations

from typing import Any

import pandas as pd
import streamlit as st

from analysis.outputs import FEATURES, task_of
from analysis.vit import Architecture
from app.state import address
from app.views.prune import offered
from app.views.prune.offered import BIND
from app.wording import STRUCTURE_TITLES
from pruning.cut import PerBlock, Ratios, can_merge, merges_of
from pruning.projection import whole_in_projections

START = {"qk": 50}  # percent removed when the sliders are first shown
START_HEADS = 25  # of a method that ranks heads alone
HIGHEST = 95
HELP = {
    "qk": "Channel i of a head's queries and channel i of its keys are removed together.",
    "v": "Value channels of a head, together with the columns of the projection that read them.",
    "mlp": "Hidden neurons of the MLP.",
    "heads": "Whole heads, with all their query-key pairs and value channels.",
    "embed": "Channels of the residual stream, removed throughout the network.",
}
_TABLE = "blocks-"  # with depth: the key of a table
_REDRAWN = "table redrawn"  # so many times; an editor takes other values only under another key
_SHORT = {"qk": "Pair", "v": "Value", "mlp": "MLP", "heads": "Head"}  # headers, which have room for no more


def preset(dense: Architecture) -> str:
    """A published preset for a model of this shape."""
    names = offered.fitting_presets(dense)
    chosen: str = st.selectbox("Preset", names, key=f"preset-{names[0]}", bind=BIND, persist_state="session")
    st.caption("Fractions per block as published with SNP (Shim et al., ECCV 2024).")
    return chosen


def sliders(method: str, dense: Architecture) -> Ratios:
    """The same percentage in every block: a slider for each structure that the method can narrow."""
    able = _able(method, dense)
    removed = {name: _slider(name, able) for name in able}
    begin = {key: _start(name, able) for name, key in shown(method, dense).items()}
    st.button(
        "Reset",
        icon=":material/restart_alt:",
        key="reset-ratios",
        on_click=st.session_state.update,
        args=(begin,),
        disabled=all(st.session_state.get(key) == value for key, value in begin.items()),
        help="Set these sliders to what they began with.",
    )
    return Ratios(**{name: value / 100 for name, value in removed.items()})


def shown(method: str, dense: Architecture) -> dict[str, str]:
    """The structures that have a slider, and the keys of these."""
    able = _able(method, dense)
    return {name: _key(name, able) for name in able}


def _able(method: str, dense: Architecture) -> tuple[str, ...]:
    """What the method can narrow in this model; the embedding of a backbone is what it gives."""
    whole = whole_in_projections(dense) if method == "spectral" else ("qk",) * dense.qk_norm
    whole += ("embed",) * (task_of(dense) == FEATURES)
    return tuple(name for name in offered.structures(method) if name not in whole)


def tokens(dense: Architecture) -> int | None:
    """Tokens that each block merges: a slider; None where it is at the model's own and keeps that."""
    own = merges_of(dense)
    most = dense.grid[0] * dense.grid[1] // max(1, 2 * sum(can_merge(dense)))
    if not most:
        return None
    begin = min(max(own), most)
    value: int = st.slider(
        "Tokens merged in each block",
        0,
        2 * most,
        begin,
        key="tokens",
        help="Patches that look alike to the model become one token behind the attention of every block, "
        "so that later blocks have fewer to compute. No weight changes.",
        bind=BIND,
        persist_state="session",
    )
    return None if value == begin and (not value or len(set(own)) > 1) else value


def _slider(name: str, able: tuple[str, ...]) -> int:
    """A slider for the percentage, and beside it the same as a number."""
    key = _key(name, able)
    with st.container(horizontal=True, vertical_alignment="bottom", key=f"row-{key}"):
        value: int = st.slider(
            STRUCTURE_TITLES[name],
            0,
            HIGHEST,
            _start(name, able),
            format="%d %% removed",
            key=key,
            help=HELP[name],
            bind=BIND,
            persist_state="session",
        )
        _number(f"{STRUCTURE_TITLES[name]}, percent removed", key, value)
    return value


def _number(label: str, slider: str, value: int) -> None:
    """A field with the value of a slider, which follows what is typed into it.

    Every move of the slider makes a new field, under a key of its own, and what comes from an old one is not
    heeded. A browser that is told late of a move still sends the old field's value with the next one, which
    looks as if someone had typed it: the slider would go back.
    """
    moves = f"moves of {slider}"
    moved: int = st.session_state.get(moves, 0)
    if st.session_state.get(f"number-{slider}-{moved}", value) != value:
        moved = st.session_state[moves] = moved + 1
    number = f"number-{slider}-{moved}"

    def typed() -> None:
        if st.session_state.get(moves, 0) == moved:
            st.session_state[slider] = st.session_state[number]

    st.number_input(
        label, 0, HIGHEST, value, key=number, on_change=typed, label_visibility="collapsed", width=110
    )


def _key(name: str, able: tuple[str, ...]) -> str:
    return "ratio-heads-alone" if able == ("heads",) else f"ratio-{name}"


def _start(name: str, able: tuple[str, ...]) -> int:
    return START_HEADS if able == ("heads",) else START.get(name, 0)


# ---- per block


def per_block(method: str, dense: Architecture) -> Ratios:
    """A table of percentages. It is kept beside the widget, so that leaving the page loses nothing."""
    able = _able(method, dense)
    shown = [name for name in _SHORT if name in able]
    key = f"{_TABLE}{dense.depth}" + ("-heads" if able == ("heads",) else "")
    editor = f"{key}-editor-{st.session_state.get(_REDRAWN, 0)}"
    if editor not in st.session_state:  # the page was left, and the widget's edits with it
        begin = _from_address(dense.depth)
        if begin is None:
            begin = st.session_state.get(key, _starting_table(dense.depth, able))
        st.session_state[f"{key}-start"] = begin
    st.caption("Percent removed of query-key pairs, value channels, MLP neurons and heads, block by block.")
    table: Any = st.data_editor(
        st.session_state[f"{key}-start"],
        key=editor,
        column_order=shown,
        column_config={name: _column(name) for name in shown},
        height=min(38 + 35 * dense.depth, 470),
        row_height=35,
    )
    st.session_state[key] = table
    _to_address(table, able)
    embed = _slider("embed", able) if "embed" in able else 0
    return Ratios(**{name: _fractions(table[name]) for name in shown}, embed=embed / 100)


def is_table(key: str) -> bool:
    """Whether a table of percentages is kept under this key."""
    return key.startswith(_TABLE) and not key.endswith("-start") and "-editor" not in key


def redraw_table() -> None:
    """Show what is now kept in place of what was edited, from a callback."""
    st.session_state[_REDRAWN] = st.session_state.get(_REDRAWN, 0) + 1


def _starting_table(depth: int, able: tuple[str, ...]) -> pd.DataFrame:
    """The sliders' values in every block."""
    start = {"heads": START_HEADS} if able == ("heads",) else START
    columns = {name: st.session_state.get(f"ratio-{name}", start.get(name, 0)) for name in _SHORT}
    return pd.DataFrame(columns, index=pd.RangeIndex(depth, name="block"))


def _to_address(table: Any, able: tuple[str, ...]) -> None:
    """Write the table into the address if it was edited, a column as its name and its percentages."""
    columns = [f"{name}:{','.join(f'{value:g}' for value in table[name])}" for name in _SHORT]
    address.write("blocks", [] if table.equals(_starting_table(len(table), able)) else columns)


def _from_address(depth: int) -> pd.DataFrame | None:
    """The table in the address, the first time it is asked for; None if there is none that fits."""
    columns = {}
    for text in address.read_once("blocks") or ():
        name, _, values = text.partition(":")
        words = values.split(",")
        if name in _SHORT and len(words) == depth and all(word.isdecimal() for word in words):
            columns[name] = [min(int(word[:3]), HIGHEST) for word in words]
    if set(columns) != set(_SHORT):
        return None
    return pd.DataFrame(columns, index=pd.RangeIndex(depth, name="block"))


def _column(name: str) -> Any:
    return st.column_config.NumberColumn(
        _SHORT[name], width=56, help=HELP[name], min_value=0, max_value=HIGHEST, step=1, required=True
    )


def _fractions(column: Any) -> PerBlock:
    values = tuple(round(float(value) / 100, 4) for value in column)
    return values[0] if len(set(values)) == 1 else values
