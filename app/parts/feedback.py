"""What a page tells its user: errors in one sentence, links to other pages, progress bars."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import streamlit as st

from app import wording
from app.state.session import NothingChosen
from pruning.bundle import ExportError
from pruning.files import OutputError

_log = logging.getLogger(__name__)


@contextmanager
def sentences() -> Iterator[None]:
    """The one place that turns what a user can cause into a sentence; the rest crashes visibly."""
    try:
        yield
    except NothingChosen as error:
        st.info(wording.plain(str(error)), icon=":material/arrow_back:")
    except (ValueError, OutputError, ExportError) as error:
        _log.info("shown to the user: %s", error, exc_info=True)
        st.error(wording.plain(str(error)), icon=":material/error:")


# ---- getting about


def link(page: str, label: str, icon: str | None = None) -> None:
    """A link to another page of the app."""
    st.page_link(st.session_state["pages"][page], label=label, icon=icon)
