"""Widths that the user chooses: sliders, a table with a row for each block, a published preset."""

from __future__ import annotations

from typing import Any

import pandas as pd
import streamlit as st

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
_SHORT = {"qk": "Pairs", "v": "Values", "mlp": "MLP", "heads": "Heads"}  # heads of columns


def preset(dense: Architecture) -> str:
    """A published preset for a model of this shape."""
    names = offered.fitting_presets(dense)
    chosen: str = st.selectbox("Preset", names, key=f"preset-{names[0]}", bind=BIND, persist_state="session")
    st.caption("Fractions per block as published with SNP (Shim et al., ECCV 2024).")
    return chosen


def sliders(method: str, dense: Architecture) -> Ratios:
    """The same percentage in every block: a slider for each structure that the method can narrow."""
    whole = whole_in_projections(dense) if method == "spectral" else ("qk",) * dense.qk_norm
    able = tuple(name for name in offered.structures(method) if name not in whole)
    removed = {name: _slider(name, able) for name in STRUCTURE_TITLES if name in able}
    return Ratios(**{name: value / 100 for name, value in removed.items()})


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
    alone = able == ("heads",)
    value: int = st.slider(
        STRUCTURE_TITLES[name],
        0,
        HIGHEST,
        START_HEADS if alone else START.get(name, 0),
        format="%d %% removed",
        key="ratio-heads-alone" if alone else f"ratio-{name}",
        help=HELP[name],
        bind=BIND,
        persist_state="session",
    )
    return value


# ---- per block


def per_block(method: str, dense: Architecture) -> Ratios:
    """A table of percentages. It is kept beside the widget, so that leaving the page loses nothing."""
    able = offered.structures(method)
    shown = [name for name in _SHORT if name in able]
    key = f"blocks-{dense.depth}" + ("-heads" if able == ("heads",) else "")
    if f"{key}-editor" not in st.session_state:  # the page was left, and the widget's edits with it
        begin = _from_address(dense.depth)
        if begin is None:
            begin = st.session_state.get(key, _starting_table(dense.depth, able))
        st.session_state[f"{key}-start"] = begin
    st.caption("Percent removed of query-key pairs, value channels, MLP neurons and heads, block by block.")
    table: Any = st.data_editor(
        st.session_state[f"{key}-start"],
        key=f"{key}-editor",
        column_order=shown,
        column_config={name: _column(name) for name in shown},
        height=min(38 + 35 * dense.depth, 470),
        row_height=35,
    )
    st.session_state[key] = table
    _to_address(table, able)
    embed = _slider("embed", able) if "embed" in able else 0
    return Ratios(**{name: _fractions(table[name]) for name in shown}, embed=embed / 100)


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
        _SHORT[name], width=68, help=HELP[name], min_value=0, max_value=HIGHEST, step=1, required=True
    )


def _fractions(column: Any) -> PerBlock:
    values = tuple(round(float(value) / 100, 4) for value in column)
    return values[0] if len(set(values)) == 1 else values
