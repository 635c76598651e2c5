"""Does what takes long while nobody waits: before the server is up, or after a page has been shown."""

from __future__ import annotations

import logging
import threading
import time
from functools import cache
from importlib import import_module
from pkgutil import walk_packages


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


@cache
def in_background(*modules: str, after: float = 0.0) -> None:
    """Import modules one after the other in a thread, `after` so many seconds.

    Code that needs one of them meanwhile waits for it. They must import no part of the app or of
    Streamlit, which two threads cannot import at the same time.
    """

    def work() -> None:
        time.sleep(after)
        for module in modules:
            import_module(module)

    threading.Thread(target=work, name="preload", daemon=True).start()
