"""The command line, `python -m pruning COMMAND`."""

from pruning.cli.main import main

__all__ = ["main"]
