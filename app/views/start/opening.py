"""The buttons that load a model and its images, and lead on to a page."""

from __future__ import annotations

import streamlit as st

from app.state import choice_address, session
from app.state.session import Choice


def buttons(chosen: Choice, key: str) -> None:
    """Make the model smaller, or look inside; one without images can only be looked at.

    Raises:
        ValueError: the model or the images cannot be loaded, or do not fit each other.
    """
    prunable = chosen.data is not None
    with st.container(horizontal=True):
        smaller = prunable and st.button(
            "Make it smaller", type="primary", icon=":material/content_cut:", key=f"{key}-shrink"
        )
        look = st.button(
            "Look inside",
            type="secondary" if prunable else "primary",
            icon=":material/visibility:",
            key=f"{key}-look",
        )
    if smaller or look:
        load(chosen, "prune" if smaller else "attention")


def load(chosen: Choice, page: str) -> None:
    """Load a choice and go to a page.

    Raises:
        ValueError: the model or the images cannot be loaded, or do not fit each other.
    """
    session.choose(chosen)
    choice_address.forget_failure()
    st.switch_page(st.session_state["pages"][page])
