"""The command line: `python -m pruning COMMAND`."""

from __future__ import annotations

import sys

from analysis.setup import setup

if __name__ == "__main__":
    setup()
    from pruning.cli import main  # imports torch, so it must come after setup

    sys.exit(main())
