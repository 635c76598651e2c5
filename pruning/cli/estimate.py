"""The command `estimate`."""

from __future__ import annotations

import argparse

from analysis.models import architecture, load
from pruning.cli.arguments import (
    add_method,
    add_ratios,
    reading_from,
    removal_fields,
)
from pruning.cli.output import Result
from pruning.jobs import Job, cost_report, method_options, require_embedding
from pruning.progress import Progress


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `estimate` besides --model, --weights and --json."""
    add_method(parser)
    add_ratios(parser)


def run(args: argparse.Namespace, progress: Progress) -> Result:
    """The cost of the model before and after a job; only the architecture is loaded.

    Raises:
        ValueError: bad input of any kind, in one sentence.
    """
    reading = reading_from(args)
    # only a file of weights can say that it has other classes or another size
    dense = (
        load(args.model, args.weights, reading).model.arch
        if args.weights
        else architecture(args.model, reading)
    )
    options = method_options(args.method, args.option)
    job = Job(model=args.model, data="", method=args.method, options=options, **removal_fields(args))
    require_embedding(job, dense, args.model)
    return cost_report(dense, job.target(dense))
