"""The app as a command: `python -m app` is `streamlit run app/asgi.py` with the first page preloaded."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from analysis.setup import setup

if __name__ == "__main__":
    setup()
    from app import preload, share  # which load torch, so they must come after setup

    known, rest = share.parse(sys.argv[1:])
    try:
        options = share.options(known)
    except ValueError as error:
        sys.exit(f"error: {error}")
    for stop in (signal.SIGINT, signal.SIGTERM):  # the server stops, and asks for what was here before it
        signal.signal(stop, lambda *_: sys.exit())  # an orderly end, at which uploads are deleted
    sys.stderr.write("Starting PruneScope ...\n")
    preload.first_page()
    from streamlit.web.cli import main

    main(["run", str(Path(__file__).with_name("asgi.py")), *options, *rest], prog_name="streamlit")
