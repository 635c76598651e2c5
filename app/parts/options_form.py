"""Widgets for the options of a method or a recovery, made from the fields of its dataclass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import Field, fields
from typing import Any

import streamlit as st

from pruning.options import Options


def options(start: Options, key: str, first: Sequence[str] = ()) -> Options:
    """The options that are set in one widget for each field, which begins with its value in `start`.

    Fields named in `first` are shown and the others folded away; without names the first six are shown.
    """
    known = {option.name: option for option in fields(start)}
    shown = [known[name] for name in first or list(known)[:6]]
    folded = [option for option in known.values() if option not in shown]
    values = _rows(start, shown, key)
    if folded:
        with st.expander("More settings", icon=":material/tune:", key=f"{key}-more"):
            values |= _rows(start, folded, key)
    return type(start)(**values)


def _rows(start: Options, listed: Sequence[Field[Any]], key: str) -> dict[str, Any]:
    """Widgets, three to a row."""
    values: dict[str, Any] = {}
    for row in (listed[start : start + 3] for start in range(0, len(listed), 3)):
        for option, column in zip(row, st.columns(max(len(row), min(len(listed), 3))), strict=False):
            with column:
                begin = getattr(start, option.name)
                values[option.name] = _widget(option, begin, f"{key}-{option.name}")
    return values


def _widget(option: Field[Any], default: Any, key: str) -> Any:
    label, limits = option.name.replace("_", " ").capitalize(), option.metadata
    kept: dict[str, Any] = {"help": limits["help"], "key": key, "persist_state": "session"}
    if isinstance(default, bool):
        return st.toggle(label, default, **kept)
    if isinstance(default, str):
        return st.selectbox(label, limits["choices"], limits["choices"].index(default), **kept)
    low, high = (type(default)(limits[name]) for name in ("low", "high"))
    form = None if isinstance(default, int) else "%g"
    step = None if isinstance(default, int) else (default or high) / 10
    return st.number_input(label, low, high, default, step=step, format=form, **kept)
