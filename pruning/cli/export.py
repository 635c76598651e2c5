"""The command `export`."""

from __future__ import annotations

import argparse
from pathlib import Path

from analysis.models import load
from pruning.bundle import FORMATS, export_formats
from pruning.cli.arguments import listed
from pruning.cli.output import Result
from pruning.progress import Progress


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """All that `export` takes besides --model, --weights and --json."""
    parser.add_argument("--format", type=listed(str, FORMATS), default=["bundle"], metavar=",".join(FORMATS))
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")


def run(args: argparse.Namespace, progress: Progress) -> Result:
    """Write the model in every format asked for; the path of each.

    Raises:
        ValueError: bad input of any kind, in one sentence.
        ExportError: a file does not compute what the model does.
        OSError: a file could not be written.
    """
    loaded = load(args.model, args.weights)
    files = export_formats(loaded, args.format, args.out)
    return {name: str(path) for name, path in files.items()}
