"""The command `survey`: measure the sensitivities that budgets are solved on, and cache them."""

from __future__ import annotations

import argparse

from pruning.cli.arguments import (
    add_budget_images,
    add_calibration,
    add_data,
    add_locked_heads,
    add_method,
    as_text,
    reading_from,
)
from pruning.cli.output import Result, log_line
from pruning.cli.runs import add_detach, detach
from pruning.jobs import SurveyJob, method_options, run_survey
from pruning.progress import PrintingMonitor, Progress


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `survey` besides --model, --weights and --json."""
    add_data(parser)
    add_method(parser)
    add_calibration(parser)
    add_budget_images(parser)
    add_locked_heads(parser, "remove")
    parser.add_argument(
        "--skip-unread",
        action="store_true",
        help="of a model without a classifier: only its pooled feature is to stay",
    )
    parser.set_defaults(out=None)  # the result goes to the cache, so there is no --out
    add_detach(parser)


def run(args: argparse.Namespace, progress: Progress) -> Result:
    """Measure sensitivities, or read them from the cache; with --json, with the curves of every block.

    Raises:
        ValueError: bad input of any kind, in one sentence.
    """
    job = SurveyJob(
        model=args.model,
        data=args.data,
        method=args.method,
        weights=as_text(args.weights),
        reading=reading_from(args),
        options=method_options(args.method, args.option),
        calibration=args.calibration,
        images=SurveyJob.images if args.budget_images is None else args.budget_images,
        seed=args.seed,
        removed=args.remove_heads,
        skip_unread=args.skip_unread,
    )
    if args.detach:
        return detach(job, args)
    report = run_survey(job, PrintingMonitor(progress, log_line)).report()
    return report if args.json else {name: value for name, value in report.items() if name != "blocks"}
