"""The commands about runs: `run`, `runs`, `cancel` and `resume`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pruning import runs
from pruning.cli.arguments import require_out
from pruning.cli.output import Result, end_other_processes
from pruning.jobs import PruneResult, RecoverResult
from pruning.progress import Progress

Made = PruneResult | RecoverResult
Command = Callable[[argparse.Namespace, Progress], Result]


def add_commands(commands: Any) -> None:
    """Add the commands to an argument parser's subparsers."""
    executed = _command(commands, "run", _run, "Carry out a run folder in this process.")
    executed.add_argument("--lock-handle", type=int, help=argparse.SUPPRESS)
    resumed = _command(commands, "resume", _resume, "Go on with a run that has not come to its end.")
    resumed.add_argument("--detach", action="store_true", help="in a process of its own; return at once")
    for sub in (executed, resumed):
        add_at_once(sub)
    cancelled = _command(commands, "cancel", _cancel, "Ask a run to end; what there is stays.")
    for sub in (executed, resumed, cancelled):
        sub.add_argument("folder", type=Path, metavar="DIR", help="a run folder")
    _add_root(_command(commands, "runs", _runs, "All runs, the newest first."))


def add_detach(parser: argparse.ArgumentParser) -> None:
    """Add what makes a run folder out of a command that would do its work itself."""
    parser.add_argument(
        "--detach", "--run", action="store_true", help="as a run in a process of its own; return at once"
    )
    _add_root(parser)
    add_at_once(parser)


def detach(job: Any, args: argparse.Namespace) -> Result:
    """Begin a run as `add_detach` describes it; a bundle's place is then in its folder.

    Raises:
        ValueError: another place is asked for.
        OutputError: the folder of runs cannot be written to.
    """
    if args.out is not None:
        raise ValueError("--detach keeps the bundle in the run's folder: leave out --out")
    return _where(runs.start(job, args.root, at_once=args.at_once))


def make_bundle(job: Any, args: argparse.Namespace, work: Callable[[], Made]) -> Result:
    """Do the work of a job that makes a smaller model and write its bundle, or begin a run that does.

    Of several processes the first alone comes back.

    Raises:
        ValueError: bad input of any kind, in one sentence.
        OSError: the bundle, or the folder of runs, could not be written.
    """
    if args.detach:
        return detach(job, args)
    require_out(args)
    made = work()
    end_other_processes()
    runs.save_output(made, args.out)
    return made.report() | {"out": str(args.out)}


def add_at_once(parser: argparse.ArgumentParser) -> None:
    """Add the option how many runs may share a device."""
    parser.add_argument("--at-once", type=int, metavar="N", help="work while N-1 others do on this device")


def _add_root(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--root", type=Path, metavar="DIR", help="the folder of runs; $PRUNESCOPE_RUNS or ./runs"
    )


def _command(commands: Any, name: str, run: Command, help: str) -> argparse.ArgumentParser:
    sub: argparse.ArgumentParser = commands.add_parser(name, help=help, description=help)
    sub.set_defaults(run=run)
    sub.add_argument("--json", action="store_true", help="print one JSON object")
    return sub


def _run(args: argparse.Namespace, progress: Progress) -> Result:
    done = runs.execute(args.folder, lock_handle=args.lock_handle, at_once=args.at_once, echo=progress)
    report = runs.report(done)
    return _where(done) | (report.figures() if report else {})


def _resume(args: argparse.Namespace, progress: Progress) -> Result:
    if args.detach:
        return _where(runs.resume(args.folder, at_once=args.at_once))
    args.lock_handle = None
    return _run(args, progress)


def _cancel(args: argparse.Namespace, progress: Progress) -> Result:
    runs.cancel(args.folder)
    return _where(runs.read(args.folder))


def _runs(args: argparse.Namespace, progress: Progress) -> Result:
    found = runs.list_runs(args.root)
    if args.json:
        return {"root": str(runs.runs_root(args.root)), "runs": [run.as_dict() for run in found]}
    return {run.name: f"{run.state:12} {run.sentence}" for run in found}


def _where(run: runs.Run) -> Result:
    out = {} if run.bundle is None else {"out": str(run.bundle)}
    return {"run": str(run.folder), "state": run.state} | out
