"""The command `survey`: measure what budgets are solved on, and keep it."""

from __future__ import annotations

import argparse

from pruning.cli.output import Result
from pruning.cli.recover import say
from pruning.cli.runs import add_detach, detach
from pruning.jobs import SurveyJob, method_options, run_survey
from pruning.progress import PrintingMonitor, Progress


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes besides model, weights, method, images to survey on and locked heads."""
    parser.set_defaults(out=None)  # the result is kept, and needs no place of its own
    add_detach(parser)


def run(args: argparse.Namespace, progress: Progress) -> Result:
    """Measure sensitivities, or find them kept; the curves of every block are in the JSON.

    Raises:
        ValueError: bad input of any kind, in one sentence.
    """
    job = SurveyJob(
        model=args.model,
        data=args.data,
        method=args.method,
        weights=str(args.weights) if args.weights else None,
        options=method_options(args.method, args.option),
        calibration=args.calibration,
        images=SurveyJob.images if args.budget_images is None else args.budget_images,
        seed=args.seed,
        removed=args.remove_heads,
    )
    if args.detach:
        return detach(job, args)
    report = run_survey(job, PrintingMonitor(progress, say)).report()
    return report if args.json else {name: value for name, value in report.items() if name != "blocks"}
