"""What of a page's state stands in the address bar, so that a view survives a refresh and can be shared.

A widget can bind itself to the address, but what it holds is lost while it is not drawn, as on a tab in the
background; what is kept here stays.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import streamlit as st


def given(name: str) -> list[str] | None:
    """What the address says of `name` when a session first asks; None later, or if it says nothing."""
    asked: set[str] = st.session_state.setdefault("address read", set())
    if name in asked:
        return None
    asked.add(name)
    return st.query_params.get_all(name) or None


def keep(name: str, values: Sequence[str]) -> None:
    """Write it into the address; nothing is not written, and what stands there is not written again."""
    if st.query_params.get_all(name) == list(values):
        return
    if values:
        st.query_params[name] = list(values)
    else:
        st.query_params.pop(name, None)


def pick(name: str, key: str, options: Sequence[str], draw: Callable[[], str | None]) -> str:
    """One of a few words by the widget that `draw` draws under `key`, with its value in the address.

    The first option is what the widget begins with, and is not written. The widget has no default.
    """
    wanted = (given(name) or [st.session_state.get(key, "")])[0]
    st.session_state[key] = wanted if wanted in options else options[0]
    chosen = draw() or options[0]
    keep(name, [chosen] if chosen != options[0] else [])
    return chosen
