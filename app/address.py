"""What of a page's state stands in the address bar, so that a view survives a refresh and can be shared.

Widgets bind themselves where their options are short words; this is for what is chosen in other ways.
"""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st


def given(name: str) -> list[str] | None:
    """What the address says of `name` when a session first asks; None later, or if it says nothing."""
    asked: set[str] = st.session_state.setdefault("address read", set())
    if name in asked:
        return None
    asked.add(name)
    return st.query_params.get_all(name) or None


def keep(name: str, values: Sequence[str]) -> None:
    """Write it into the address; nothing is not written."""
    if values:
        st.query_params[name] = list(values)
    else:
        st.query_params.pop(name, None)
