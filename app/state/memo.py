"""Results kept for the session, a few under each name; the one used longest ago is dropped first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TypeVar

import streamlit as st

T = TypeVar("T")


def remember(name: str, key: object, make: Callable[[], T], keep: int = 32) -> T:
    """The result of `make`, called once for each key; the `keep` results used last are kept."""
    results = _results(name)
    if key not in results:
        results[key] = make()
    results.move_to_end(key)
    while len(results) > keep:
        results.popitem(last=False)
    result: T = results[key]
    return result


def recall(name: str, key: object) -> Any | None:
    """A result that is kept already, or None."""
    return _results(name).get(key)


def forget(name: str) -> None:
    """Drop all results that are kept under a name."""
    _results(name).clear()


def _results(name: str) -> OrderedDict[object, Any]:
    results: OrderedDict[object, Any] = st.session_state.setdefault(f"results {name}", OrderedDict())
    return results
