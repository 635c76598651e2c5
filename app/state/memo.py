"""Results kept for the session, the oldest dropped first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TypeVar

import streamlit as st

T = TypeVar("T")


# ---- what was measured


def remember(name: str, key: object, make: Callable[[], T], keep: int = 32) -> T:
    """A result of this session, made once for each key; the oldest go first."""
    shelf = _shelf(name)
    if key not in shelf:
        shelf[key] = make()
    shelf.move_to_end(key)
    while len(shelf) > keep:
        shelf.popitem(last=False)
    result: T = shelf[key]
    return result


def recall(name: str, key: object) -> Any | None:
    """A remembered result, or None."""
    return _shelf(name).get(key)


def _shelf(name: str) -> OrderedDict[object, Any]:
    shelf: OrderedDict[object, Any] = st.session_state.setdefault(f"shelf {name}", OrderedDict())
    return shelf
