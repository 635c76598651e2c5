"""A progress bar for work that the page waits for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import streamlit as st

from app import wording
from pruning.progress import Progress


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """A bar that shows what is being done and how much of it is done; it disappears at the end."""
    bar = st.progress(0.0, text=" ")

    def show(what: str, share: float) -> None:
        bar.progress(min(share, 1.0), text=f"{wording.plain(what)} · {share:.0%}")

    try:
        yield show
    finally:
        bar.empty()
