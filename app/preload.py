"""Imports that take long, done while nobody waits for them."""

from __future__ import annotations

import threading
from functools import cache
from importlib import import_module


@cache
def in_background(*modules: str) -> None:
    """Import modules one after the other, in a thread of their own; whoever needs one meanwhile waits for it.

    Modules that import no part of the app or of Streamlit: two threads must not import those in turns.
    """

    def work() -> None:
        for module in modules:
            import_module(module)

    threading.Thread(target=work, name="preload", daemon=True).start()
