"""The command `estimate`."""

from __future__ import annotations

import argparse

from analysis.models import architecture
from pruning.cli.arguments import what_to_remove
from pruning.cli.output import Result
from pruning.jobs import Job, cost_report, method_options
from pruning.progress import Progress


def _estimate(args: argparse.Namespace, progress: Progress) -> Result:
    dense = architecture(args.model)
    options = method_options(args.method, args.option)
    job = Job(model=args.model, data="", method=args.method, options=options, **what_to_remove(args))
    return cost_report(dense, job.target(dense))
