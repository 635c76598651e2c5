"""The command `export`."""

from __future__ import annotations

import argparse

from analysis.models import load
from pruning.bundle import export_formats
from pruning.cli.output import Result
from pruning.progress import Progress


def _export(args: argparse.Namespace, progress: Progress) -> Result:
    loaded = load(args.model, args.weights)
    files = export_formats(loaded, args.format, args.out)
    return {name: str(path) for name, path in files.items()}
