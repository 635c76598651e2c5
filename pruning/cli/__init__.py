"""The command line, `python -m pruning COMMAND`."""
