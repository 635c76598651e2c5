"""The app as a command: `python -m app` is `streamlit run app/main.py` with the first page preloaded."""

from __future__ import annotations

import sys
from pathlib import Path

from analysis.setup import setup
from app import preload

if __name__ == "__main__":
    setup()
    sys.stderr.write("Starting PruneScope ...\n")
    preload.first_page()
    from streamlit.web.cli import main

    main(["run", str(Path(__file__).with_name("main.py")), *sys.argv[1:]], prog_name="streamlit")
