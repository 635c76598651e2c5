"""The command line: `python -m pruning COMMAND`."""

from __future__ import annotations

import sys

from pruning.cli import main

if __name__ == "__main__":
    sys.exit(main())
