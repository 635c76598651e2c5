"""The command `prune`."""

from __future__ import annotations

import argparse

from pruning.bundle import require_free
from pruning.cli.arguments import what_to_remove
from pruning.cli.output import Result
from pruning.cli.recover import end_helpers, given_recovery, say
from pruning.cli.runs import detach
from pruning.jobs import Job, method_options, prune
from pruning.progress import PrintingMonitor, Progress
from pruning.runs import save_output


def _prune(args: argparse.Namespace, progress: Progress) -> Result:
    job = Job(
        model=args.model,
        data=args.data,
        method=args.method,
        weights=str(args.weights) if args.weights else None,
        options=method_options(args.method, args.option),
        calibration=args.calibration,
        limit=args.limit,
        seed=args.seed,
        recovery=given_recovery(args),
        compensate=args.compensate,
        heads_by=args.heads_by,
        **what_to_remove(args),
    )
    if args.detach:
        return detach(job, args)
    _require_out(args)
    outcome = prune(job, progress=PrintingMonitor(progress, say))
    end_helpers()
    save_output(outcome, args.out)
    return outcome.report() | {"out": str(args.out)}


def _require_out(args: argparse.Namespace) -> None:
    if args.out is None:
        raise ValueError("say where the bundle goes: --out DIR, or --detach for a run of its own")
    require_free(args.out)  # now, not after minutes of work
