"""What the address bar carries of a page's state, so that a view survives a refresh and can be shared.

A widget can bind itself to the address, but loses its value while it is not drawn, as on a tab in the
background. Values that are kept here stay.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import streamlit as st


def read_once(name: str) -> list[str] | None:
    """The values of a parameter, the first time a session asks for them; None later, or without any."""
    asked: set[str] = st.session_state.setdefault("address read", set())
    if name in asked:
        return None
    asked.add(name)
    return st.query_params.get_all(name) or None


def write(name: str, values: Sequence[str]) -> None:
    """Set a parameter to these values, or remove it if there are none. Nothing is done if they are there."""
    if st.query_params.get_all(name) == list(values):
        return
    if values:
        st.query_params[name] = list(values)
    else:
        st.query_params.pop(name, None)


def pick(name: str, key: str, options: Sequence[str], draw: Callable[[], str | None]) -> str:
    """A choice whose value is in the address: `draw` shows its widget, under `key` and without a default.

    The widget begins with the first option, which is not written into the address.
    """
    wanted = (read_once(name) or [st.session_state.get(key, "")])[0]
    st.session_state[key] = wanted if wanted in options else options[0]
    chosen = draw() or options[0]
    write(name, [chosen] if chosen != options[0] else [])
    return chosen
