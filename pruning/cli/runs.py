"""The commands for runs: `run`, `runs`, `cancel` and `resume`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from pruning import runs
from pruning.cli.arguments import path_argument, require_out, whole_number
from pruning.cli.output import Result, exit_unless_main_process
from pruning.jobs import PruneResult, RecoverResult
from pruning.progress import Progress

Made = PruneResult | RecoverResult
Command = Callable[[argparse.Namespace, Progress], Result]


def add_commands(commands: Any) -> None:
    """Add the commands to an argument parser's subparsers."""
    executed = _command(commands, "run", _run, "Carry out a run in this process.")
    # how the project starts its own processes
    executed.add_argument("--lock-handle", type=whole_number, help=argparse.SUPPRESS)
    executed.add_argument("--queue", action="store_true", help=argparse.SUPPRESS)
    resumed = _command(
        commands, "resume", _resume, "Continue a run that was cancelled, interrupted or failed."
    )
    resumed.add_argument("--detach", action="store_true", help="run in a separate process and return at once")
    for sub in (executed, resumed):
        add_at_once(sub)
    cancelled = _command(commands, "cancel", _cancel, "Cancel a run; it keeps its files and can be resumed.")
    for sub in (executed, resumed, cancelled):
        sub.add_argument("folder", type=path_argument, metavar="DIR", help="a run folder")
    _add_root(_command(commands, "runs", _runs, "List all runs, newest first."))


def add_detach(parser: argparse.ArgumentParser) -> None:
    """Add the options with which a command starts a run instead of doing the work itself."""
    parser.add_argument(
        "--detach", "--run", action="store_true", help="start a run in a separate process and return at once"
    )
    _add_root(parser)
    add_at_once(parser)


def detach(job: Any, args: argparse.Namespace) -> Result:
    """Start a run with the options of `add_detach`; its result is written to the run folder.

    Raises:
        ValueError: --out was given too.
        OutputError: the folder of runs cannot be written to.
    """
    if args.out is not None:
        raise ValueError("--detach writes the result to the run folder: omit --out")
    return _summary(runs.start(job, args.root, at_once=args.at_once))


def make_bundle(job: Any, args: argparse.Namespace, work: Callable[[], Made]) -> Result:
    """Do the work of a job that makes a smaller model and write its bundle, or begin a run that does.

    Of several processes the first alone comes back.

    Raises:
        ValueError: bad input of any kind, in one sentence.
        OSError: the bundle, or the folder of runs, could not be written.
    """
    if args.detach:
        if args.dtype is not None:
            raise ValueError("--dtype needs --out: a run keeps the precision of the model it begins with")
        return detach(job, args)
    require_out(args)
    made = work()
    exit_unless_main_process()
    runs.save_output(made, args.out)
    return made.report() | {"out": str(args.out)}


def add_at_once(parser: argparse.ArgumentParser) -> None:
    """Add --at-once: how many runs may share a device."""
    parser.add_argument(
        "--at-once",
        type=whole_number,
        metavar="N",
        help="let up to N runs share this device (default: $PRUNESCOPE_AT_ONCE or 1)",
    )


def _add_root(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--root",
        type=path_argument,
        metavar="DIR",
        help="the folder of runs (default: $PRUNESCOPE_RUNS or ./runs)",
    )


def _command(commands: Any, name: str, run: Command, help: str) -> argparse.ArgumentParser:
    sub: argparse.ArgumentParser = commands.add_parser(name, help=help, description=help)
    sub.set_defaults(run=run)
    sub.add_argument("--json", action="store_true", help="print one JSON object")
    return sub


def _run(args: argparse.Namespace, progress: Progress) -> Result:
    if args.queue:
        if args.lock_handle is None:
            raise ValueError("--queue is for processes that PruneScope starts itself: omit it")
        runs.run_dispatcher(args.folder, args.lock_handle)
        return {}
    done = runs.execute(args.folder, lock_handle=args.lock_handle, at_once=args.at_once, progress=progress)
    report = runs.report(done)
    return _summary(done) | (report.figures() if report else {})


def _resume(args: argparse.Namespace, progress: Progress) -> Result:
    if args.detach:
        return _summary(runs.resume(args.folder, at_once=args.at_once))
    args.lock_handle, args.queue = None, False
    return _run(args, progress)


def _cancel(args: argparse.Namespace, progress: Progress) -> Result:
    runs.cancel(args.folder)
    return _summary(runs.read(args.folder))


def _runs(args: argparse.Namespace, progress: Progress) -> Result:
    found = runs.list_runs(args.root)
    if args.json:
        return {"root": str(runs.runs_root(args.root)), "runs": [run.as_dict() for run in found]}
    return {run.name: f"{run.state:12} {runs.flaw(run) or run.sentence}" for run in found}


def _summary(run: runs.Run) -> Result:
    out = {} if run.bundle is None else {"out": str(run.bundle)}
    return {"run": str(run.folder), "state": run.state} | out
