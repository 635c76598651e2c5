"""The command `prune`."""

from __future__ import annotations

import argparse

from pruning.cli.arguments import (
    add_calibration,
    add_data,
    add_dtype,
    add_limit,
    add_method,
    add_ratios,
    as_text,
    path_argument,
    reading_from,
    removal_fields,
)
from pruning.cli.output import Result, log_line
from pruning.cli.recover import add_recovery, recovery_from
from pruning.cli.runs import add_detach, make_bundle
from pruning.jobs import Job, method_options, prune
from pruning.progress import PrintingMonitor, Progress


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `prune` besides --model, --weights and --json."""
    add_data(parser)
    add_limit(parser)
    add_method(parser)
    add_ratios(parser)
    parser.add_argument(
        "--compensate", action="store_true", help="refit proj and fc2 by least squares after the cut"
    )
    parser.add_argument("--heads-by", metavar="NAME", help="remove heads first, by this criterion")
    add_calibration(parser)
    parser.add_argument("--out", type=path_argument, metavar="DIR", help="new or empty folder for the bundle")
    add_dtype(parser)
    add_recovery(parser)
    add_detach(parser)


def run(args: argparse.Namespace, progress: Progress) -> Result:
    """Prune a model and write the bundle, or start a run that does.

    Raises:
        ValueError: bad input of any kind, in one sentence.
        OSError: the bundle could not be written.
    """
    job = Job(
        model=args.model,
        data=args.data,
        method=args.method,
        weights=as_text(args.weights),
        reading=reading_from(args),
        options=method_options(args.method, args.option),
        calibration=args.calibration,
        limit=args.limit,
        seed=args.seed,
        recovery=recovery_from(args),
        compensate=args.compensate,
        heads_by=args.heads_by,
        **removal_fields(args),
    )
    monitor = PrintingMonitor(progress, log_line)
    return make_bundle(job, args, lambda: prune(job, dtype=args.dtype, progress=monitor))
