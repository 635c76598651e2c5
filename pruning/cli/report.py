"""The command `report`: finished runs side by side in one HTML file."""

from __future__ import annotations

import argparse
from functools import cache
from pathlib import Path
from typing import Any

from analysis.models import LoadedModel, Named, load_named
from pruning import runs
from pruning.bundle import require_file
from pruning.cli.arguments import path_argument, whole_number
from pruning.cli.output import log_line
from pruning.jobs import BenchJob, Timings, describe, read_timings
from pruning.progress import Progress
from pruning.report import (
    MAX_COMPARED,
    Comparison,
    Trade,
    dense_of,
    is_report,
    make_report,
    newest_timings,
    smaller_of,
    with_int8,
)
from pruning.runs import FinishedRun, is_finished
from pruning.wording import base_name


def add_report(commands: Any) -> None:
    """Add the command to an argument parser's subparsers."""
    help = "Compare finished runs of one dense model in a single HTML file that can be shared."
    sub: argparse.ArgumentParser = commands.add_parser("report", help=help, description=help)
    sub.set_defaults(run=_report)
    sub.add_argument(
        "folders",
        type=path_argument,
        nargs="+",
        metavar="DIR",
        help="run folders, or folders that prune and recover wrote to by --out",
    )
    sub.add_argument("--out", type=path_argument, required=True, metavar="FILE", help="the HTML file")
    sub.add_argument(
        "--image", type=whole_number, default=0, metavar="N", help="index of the test image shown with maps"
    )
    sub.add_argument("--json", action="store_true", help="print one JSON object")


def _report(args: argparse.Namespace, progress: Progress) -> dict[str, Any]:
    out = require_file(args.out, "report", is_report)
    page = make_report(compare_runs(args.folders), args.image, progress)
    out.write(page)
    return {"out": str(args.out), "runs": [str(folder) for folder in args.folders], "bytes": len(page)}


def compare_runs(folders: list[Path]) -> Comparison:
    """Finished runs and their dense model; other runs in the same folders appear in the trade-off.

    Raises:
        ValueError: a folder without a finished run, too many folders, or runs that cannot be compared.
    """
    chosen = [_finished(folder) for folder in dict.fromkeys(path.resolve() for path in folders)]
    if len(chosen) > MAX_COMPARED:
        raise ValueError(f"at most {MAX_COMPARED} runs fit side by side, got {len(chosen)}")
    first = chosen[0]
    for other in chosen[1:]:
        if not other.is_like(first):
            raise ValueError(
                f"{other.run.name} and {first.run.name} have different dense models or test images: only "
                "runs of one dense model on the same images can be compared"
            )
    load_once = cache(_load)
    loaded = load_once(first.origin)
    roots = list(dict.fromkeys(run.run.folder.parent for run in chosen))
    around = [run for root in roots for run in _all(root)]
    around += [run.run for run in chosen if run.run not in around]  # such as a folder whose name has a dot
    counted = [folder for root in roots for folder in runs.numbers(root)]
    counted += [run.folder for run in around if run.folder not in counted]
    numbers = {run.folder: runs.label(counted.index(run.folder) + 1, run.note.name) for run in around}
    dense = with_int8(dense_of(first, loaded))
    others = tuple(with_int8(smaller_of(run, numbers[run.run.folder], describe(run.job))) for run in chosen)
    like = [run for run in map(FinishedRun, filter(is_finished, around)) if run.is_like(first)]
    trades = [Trade(dense.name, dense.cost.gmacs, dense.result, dense=True)]
    trades += [trade for run in like if (trade := _trade(run, numbers[run.run.folder])) is not None]
    timings = newest_timings(_timings(around), [model.source for model in (dense, *others)])
    tested = first.open_tested(loaded)
    return Comparison(dense, others, tested, base_name(first.data), tuple(trades), timings, load_once)


def _trade(run: FinishedRun, name: str) -> Trade | None:
    """A run's point in the trade-off; None, with a line that says why, if its folder is damaged."""
    try:
        return Trade.of(smaller_of(run, name, ""))
    except ValueError as error:
        log_line(f"{run.run.name} is left out of the trade-off: {error}")
        return None


def _finished(folder: Path) -> FinishedRun:
    run = runs.read(folder)
    if run.job is None:
        raise ValueError(str(run.problem))
    if not is_finished(run):
        raise ValueError(f"{run.name} is {run.state}: only a run that has produced a model can be reported")
    return FinishedRun(run)


def _all(root: Path) -> list[runs.Run]:
    """All runs of a folder, oldest first, in the order in which the app numbers them."""
    return list(reversed(runs.list_runs(root)))


def _timings(around: list[runs.Run]) -> list[Timings]:
    """The timings of finished bench runs, newest first."""
    found = []
    for run in reversed(around):
        if isinstance(run.job, BenchJob) and run.state == "done":
            try:
                found.append(read_timings(run.folder))
            except ValueError as error:
                log_line(f"The timings of {run.name} are left out: {error}")
    return found


def _load(source: Named) -> LoadedModel:
    return load_named(source)
