"""Widgets for the options of a method or a recovery, made from the fields of its dataclass."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import Field, fields
from functools import partial
from types import MappingProxyType
from typing import Any

import streamlit as st

from pruning.options import Options


def options(
    start: Options,
    key: str,
    first: Sequence[str] = (),
    titles: Mapping[str, str] = MappingProxyType({}),
    blanks: Mapping[str, str] = MappingProxyType({}),
    columns: int = 3,
    bind: Any = None,
) -> Options:
    """The options that are set in one widget for each field, which begins with its value in `start`.

    Fields named in `first` are shown and the others folded away; without names the first six are shown.
    `titles` are the labels of fields whose names do not say enough, `blanks` the words in an empty field that
    stands for the lowest number, where a field begins with it. `columns` is the number of widgets in a row,
    and `bind` is "query-params" if the address is to carry the values.
    """
    draw = partial(_widget, titles=titles, blanks=blanks, bind=bind)
    known = {option.name: option for option in fields(start)}
    shown = [known[name] for name in first or list(known)[:6]]
    folded = [option for option in known.values() if option not in shown]
    values = _rows(start, shown, key, columns, draw)
    if folded:
        with st.expander("More settings", icon=":material/tune:", key=f"{key}-more"):
            values |= _rows(start, folded, key, columns, draw)
    return type(start)(**values)


def _rows(
    start: Options, listed: Sequence[Field[Any]], key: str, columns: int, draw: Callable[..., Any]
) -> dict[str, Any]:
    """Widgets, so many to a row."""
    values: dict[str, Any] = {}
    for row in (listed[first : first + columns] for first in range(0, len(listed), columns)):
        places = st.columns(max(len(row), min(len(listed), columns)), vertical_alignment="bottom")
        for option, column in zip(row, places, strict=False):
            with column:
                begin = getattr(start, option.name)
                values[option.name] = draw(option, begin, f"{key}-{option.name}")
    return values


def _widget(
    option: Field[Any],
    default: Any,
    key: str,
    titles: Mapping[str, str],
    blanks: Mapping[str, str],
    bind: Any,
) -> Any:
    label = titles.get(option.name, option.name.replace("_", " ").capitalize())
    limits = option.metadata
    kept: dict[str, Any] = {"help": limits["help"], "key": key, "bind": bind, "persist_state": "session"}
    if isinstance(default, bool):
        return st.toggle(label, default, **kept)
    if isinstance(default, str):
        return st.selectbox(label, limits["choices"], limits["choices"].index(default), **kept)
    low, high = (type(default)(limits[name]) for name in ("low", "high"))
    form = None if isinstance(default, int) else "%g"
    step = None if isinstance(default, int) else (default or high) / 10
    blank = blanks.get(option.name) if default == low else None
    begin = default if blank is None else None
    value = st.number_input(label, low, high, begin, step=step, format=form, placeholder=blank, **kept)
    return default if value is None else value
