"""The command `export`."""

from __future__ import annotations

import argparse

from analysis.models import load
from pruning.cli.arguments import comma_separated, path_argument, reading_from
from pruning.cli.output import Result, log_line
from pruning.export import FORMATS, export_formats, require_exportable
from pruning.progress import Progress


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `export` besides --model, --weights and --json."""
    parser.add_argument(
        "--format", type=comma_separated(str, FORMATS), default=["bundle"], metavar=",".join(FORMATS)
    )
    parser.add_argument(
        "--out", type=path_argument, required=True, metavar="DIR", help="folder for the files"
    )


def run(args: argparse.Namespace, progress: Progress) -> Result:
    """Export the model in every requested format; returns the path of each.

    Raises:
        ValueError: bad input of any kind, in one sentence.
        ExportError: an exported file does not give the model's logits.
        OSError: a file could not be written.
    """
    require_exportable(args.out, args.format)
    loaded = load(args.model, args.weights, reading_from(args))
    for note in loaded.notes:
        log_line(f"note: {note}")
    files = export_formats(loaded, args.format, args.out)
    return {name: str(path) for name, path in files.items()}
