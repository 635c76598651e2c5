"""The command `heads`: measure every head by every measure."""

from __future__ import annotations

import argparse

from analysis.head_grid import by_block
from pruning.bundle import require_file
from pruning.cli.arguments import (
    add_data,
    as_text,
    path_argument,
    reading_from,
    whole_number,
)
from pruning.cli.output import Result
from pruning.cli.runs import add_detach, detach
from pruning.jobs import HeadsJob, is_reading, run_heads
from pruning.progress import Progress, as_monitor


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `heads` besides --model, --weights and --json."""
    add_data(parser)
    parser.add_argument(
        "--images",
        type=whole_number,
        default=HeadsJob.images,
        metavar="N",
        help="number of calibration images",
    )
    parser.add_argument(
        "--out", type=path_argument, metavar="FILE", help="also write the measurements as JSON"
    )
    add_detach(parser)


def run(args: argparse.Namespace, progress: Progress) -> Result:
    """Measure all heads; the result has a list of blocks for each measure.

    Raises:
        ValueError: bad input of any kind, in one sentence, or `out` is a file of another kind.
        OSError: `out` could not be written.
    """
    job = HeadsJob(args.model, args.data, as_text(args.weights), args.images, args.seed, reading_from(args))
    if args.detach:
        return detach(job, args)
    out = None if args.out is None else require_file(args.out, "reading of heads", is_reading)
    found = run_heads(job, as_monitor(progress))
    if out is not None:
        out.write(found.to_json())
    shown = {name: [float(f"{value:.6g}") for value in row] for name, row in found.values.items()}
    values = {name: by_block(row, found.counts) for name, row in shown.items()}
    return {"images": found.images, **(values if not args.json else {"values": values})}
