"""The loaded model and images in the address bar, so that a view is of the same model after a refresh.

Only what differs from the demo is written. Uploaded files are deleted with their session, so whatever
depends on one is left out.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import streamlit as st

from analysis.formats import dump, parse, plain, typed
from analysis.models import Reading
from analysis.paths import may_be_path, quoted, user_path
from app import reading_form, wording
from app.state import address, session, uploads
from app.state.session import Choice
from pruning.bundle import is_bundle

NO_IMAGES = "none"  # in the address
_NAMES = ("model", "weights", "data", "limit", "reading")
_FAILED = "address failed"


def from_address() -> bool:
    """Load what the address asks for, once in a session; if that fails, the demo stays loaded.

    Returns whether it has asked for anything now.
    """
    asked = {name: said[-1] for name in _NAMES if (said := address.read_once(name))}
    if "choice" in st.session_state or not asked:
        return False
    try:
        chosen = session.choose(_read(asked))
    except ValueError as error:
        st.session_state[_FAILED] = (
            f"What the address asks for cannot be loaded, so the demo is shown: {error}"
        )
        return True
    fill_form(chosen)
    return True


def to_address() -> None:
    """Write into the address what is loaded."""
    usual, shown = Choice(), _without_uploads(session.choice())
    for name in _NAMES:
        value = getattr(shown, name)
        text = dump(plain(value)) if isinstance(value, Reading) else str(value)
        told = [] if value == getattr(usual, name) else [NO_IMAGES if value is None else text]
        address.write(name, told)


def show_failure() -> None:
    """Say what in the address could not be loaded, until something else is loaded."""
    if _FAILED in st.session_state:
        st.warning(wording.plain(st.session_state[_FAILED]), icon=":material/link_off:")


def forget_failure() -> None:
    """No longer say what could not be loaded, as something else was loaded since."""
    st.session_state.pop(_FAILED, None)


def has_uploads() -> bool:
    """Whether the loaded model or images were uploaded, so that they are deleted with this session."""
    chosen = session.choice()
    return any(_is_upload(spec) for spec in (chosen.model, chosen.weights, chosen.data))


def _without_uploads(chosen: Choice) -> Choice:
    """What another session can load of it: the demo for an uploaded model, no images for uploaded ones."""
    if _is_upload(chosen.model) or _is_upload(chosen.weights):
        return Choice(limit=chosen.limit)
    return replace(chosen, data=None) if _is_upload(chosen.data) else chosen


def _is_upload(spec: str | None) -> bool:
    return spec is not None and Path(spec).is_relative_to(uploads.workspace())


def _read(asked: dict[str, str]) -> Choice:
    named: dict[str, Any] = {name: said for name, said in asked.items() if name not in ("limit", "reading")}
    if "reading" in asked:
        named["reading"] = typed(parse(asked["reading"]), Reading, "reading")
    limit = asked.get("limit", str(Choice.limit))
    if not (limit.isdecimal() and len(limit) < 10 and int(limit) > 0):
        raise ValueError(f"limit must be a whole number of at least 1, got {quoted(limit)}")
    chosen = Choice(**named, limit=int(limit))
    return replace(chosen, data=None) if chosen.data == NO_IMAGES else chosen


def fill_form(chosen: Choice) -> None:
    """Set the sidebar's form to what is loaded."""
    state = st.session_state
    if chosen.model == "demo":
        state["model-source"] = "demo"
    elif may_be_path(chosen.model) and is_bundle(user_path(chosen.model, "the model")):
        state["model-source"], state["bundle-folder"] = "bundle", chosen.model
    else:
        state["model-source"], state["model-name"] = "name", chosen.model
    if chosen.weights is not None:
        state["weights-source"], state["weights-path"] = "path", chosen.weights
    if chosen.data in ("demo", None):
        state["image-source"] = chosen.data or "none"
    else:
        state["image-source"], state["data-path"] = "path", chosen.data
    state["limit"] = chosen.limit
    reading_form.fill(chosen.reading)
