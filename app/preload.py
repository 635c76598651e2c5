"""Does what takes long while nobody waits: before the server is up, or after a page has been shown."""

from __future__ import annotations

import logging
import sys
import threading
from importlib import import_module
from pkgutil import walk_packages

_waiting: list[threading.Timer] = []  # the last one, if any


def first_page() -> None:
    """Import and load all that the first page needs, before the server takes connections.

    The demo stays loaded for all sessions, with the scenes that the page shows.
    """
    from app import sidebar, views  # noqa: F401
    from app.state import session
    from app.views import model

    for page in walk_packages(views.__path__, f"{views.__name__}."):
        import_module(page.name)
    log = logging.getLogger("streamlit.runtime.scriptrunner_utils.script_run_context")
    log.disabled = True  # it would warn that there is no session yet
    session.warm_up(model.SAMPLES)
    log.disabled = False


def in_background(*modules: str, after: float = 0.0) -> None:
    """Import modules one after the other in a thread, `after` so many seconds; nothing once they are there.

    They must import no part of the app or of Streamlit, which two threads cannot import at the same time.
    Nor may others import parts of them meanwhile, which is what `hold` is for: each thread could have the
    half of a package that the other one waits for.
    """
    if any(module not in sys.modules for module in modules):
        timer = threading.Timer(after, lambda: [import_module(module) for module in modules])
        timer.name, timer.daemon = "preload", True
        _waiting[:] = [timer]
        timer.start()


def hold() -> None:
    """Put off what waits to be imported, or wait for what is being imported."""
    for timer in _waiting:
        timer.cancel()
        timer.join()
