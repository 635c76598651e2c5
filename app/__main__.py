"""The app as a command: `python -m app` is `streamlit run app/main.py`, and torch is read in meanwhile."""

from __future__ import annotations

import sys
from pathlib import Path

from app import preload

if __name__ == "__main__":
    preload.in_background("analysis", "plotly.graph_objects", "pandas")  # what the first page needs
    from streamlit.web.cli import main

    main(["run", str(Path(__file__).with_name("main.py")), *sys.argv[1:]], prog_name="streamlit")
