"""What takes long, done while nobody waits: before the server is up, or behind a page that is there."""

from __future__ import annotations

import logging
import threading
import time
from functools import cache
from importlib import import_module
from pkgutil import walk_packages


def first_page() -> None:
    """All that the first page needs: a server that takes connections and cannot answer is not up.

    The demo stays loaded for all sessions, with the scenes that the page shows.
    """
    from app import sidebar, views  # noqa: F401
    from app.state import session
    from app.views import model

    for page in walk_packages(views.__path__, "app.views."):
        import_module(page.name)
    log = logging.getLogger("streamlit.runtime.scriptrunner_utils.script_run_context")
    log.disabled = True  # that there is no session yet is as it should be
    session.warm_up(model.SAMPLES)
    log.disabled = False


@cache
def in_background(*modules: str, after: float = 0.0) -> None:
    """Import modules one after the other, in a thread of their own; whoever needs one meanwhile waits for it.

    Modules that import no part of the app or of Streamlit: two threads must not import those in turns.
    `after` is in seconds, for what must not slow down that which is being done now.
    """

    def work() -> None:
        time.sleep(after)
        for module in modules:
            import_module(module)

    threading.Thread(target=work, name="preload", daemon=True).start()
