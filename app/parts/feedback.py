"""What a page tells its user: errors in one sentence, and links to other pages."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import streamlit as st

from app import wording
from app.state import finished_runs, session_runs
from app.state.session import NothingChosen
from pruning.export import ExportError
from pruning.files import OutputError
from pruning.jobs import Job, RecoverJob

_log = logging.getLogger(__name__)


@contextmanager
def sentences() -> Iterator[None]:
    """Show errors that a user can cause as a sentence, here and nowhere else; all others crash visibly."""
    try:
        yield
    except NothingChosen as error:
        st.info(_sentence(error), icon=":material/arrow_back:")
    except (ValueError, OutputError, ExportError) as error:
        _log.info("shown to the user: %s", error, exc_info=True)
        st.error(_sentence(error), icon=":material/error:")


def _sentence(error: Exception) -> str:
    """What an error says, with a capital where it begins with a word: a name stays as it is written.

    Files that were uploaded are called by their names, as nobody knows the folder that they are kept in.
    """
    said = session_runs.named(str(error))
    first = said.partition(" ")[0]
    return wording.plain(first.capitalize() + said[len(first) :] if first in _WORDS else said)


_WORDS = {
    "a",
    "all",
    "an",
    "any",
    "at",
    "every",
    "no",
    "none",
    "one",
    "only",
    "some",
    "that",
    "the",
    "there",
    "this",
}


def link(page: str, label: str, icon: str | None = None) -> None:
    """A link to another page of the app."""
    st.page_link(st.session_state["pages"][page], label=label, icon=icon)


def go(page: str, **state: Any) -> None:
    """Go to another page of the app, which finds these values in the session's state."""
    st.session_state.update(state)
    # Streamlit refuses to clear an address in which a widget keeps its value, but replaces it by an empty one
    st.switch_page(st.session_state["pages"][page], query_params={})


def nothing_pruned() -> None:
    """Say that there is no finished run to show, and where to start one."""
    damaged = finished_runs.damaged(Job, RecoverJob)
    why = "All finished runs are damaged." if damaged else "Nothing has been pruned yet."
    st.info(f"{why} Choose what to remove on the Prune page.", icon=":material/content_cut:")
    link("prune", "Go to Prune", ":material/arrow_back:")
