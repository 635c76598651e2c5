"""The command line: its parser, and how a command's outcome becomes output and exit code."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from pruning.bundle import FORMATS, ExportError
from pruning.cli import heads as commands_heads
from pruning.cli import survey
from pruning.cli.arguments import (
    add_budget_images,
    add_calibration,
    add_locked_heads,
    add_method,
    add_ratios,
    listed,
)
from pruning.cli.bench import run as run_bench
from pruning.cli.estimate import _estimate
from pruning.cli.evaluate import _evaluate
from pruning.cli.export import _export
from pruning.cli.output import Result, _Bars, _print
from pruning.cli.prune import _prune
from pruning.cli.recover import add_arguments, add_recovery
from pruning.cli.recover import run as run_recover
from pruning.cli.report import add_report
from pruning.cli.runs import add_commands, add_detach
from pruning.jobs import BACKENDS
from pruning.progress import Cancelled, Progress
from pruning.runs import RunFailed


class _Parser(argparse.ArgumentParser):
    """Bad arguments are one line on standard error and exit code 2, without the usage text."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message} (see --help)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m pruning",
        description="Prune Vision Transformers: estimate, prune, evaluate, time, recover, export.",
    )
    commands = parser.add_subparsers(dest="command", required=True, parser_class=_Parser)

    def command(name: str, run: Callable[[argparse.Namespace, Progress], Result], help: str) -> _Parser:
        sub: _Parser = commands.add_parser(name, help=help.replace("%", "%%"), description=help)
        sub.set_defaults(run=run)
        sub.add_argument("--json", action="store_true", help="print one JSON object")
        sub.add_argument(
            "--model", required=True, metavar="M", help="demo, a timm name, hf-hub:ID or a bundle"
        )
        return sub

    estimate = command("estimate", _estimate, "Parameters, GMACs and bytes before and after, without images.")
    add_method(estimate)
    add_ratios(estimate)
    pruned = command("prune", _prune, "Score, cut, evaluate, and write the smaller model as a bundle.")
    add_ratios(pruned)
    add_method(pruned)
    pruned.add_argument(
        "--compensate", action="store_true", help="refit proj and fc2 by least squares after choosing"
    )
    pruned.add_argument("--heads-by", metavar="NAME", help="criterion that removes the heads first")
    add_calibration(pruned)
    pruned.add_argument("--out", type=Path, metavar="DIR")
    add_recovery(pruned)
    add_detach(pruned)
    recovered = command("recover", run_recover, "Fine-tune a pruned model with the dense one as teacher.")
    add_arguments(recovered)
    evaluated = command("evaluate", _evaluate, "Top-1 and top-5 with a 95 % interval, images per second.")
    surveyed = command("survey", survey.run, "Measure what budgets are solved on, once; it is kept.")
    add_method(surveyed)
    add_calibration(surveyed)
    add_budget_images(surveyed)
    add_locked_heads(surveyed, "remove")
    survey.add_arguments(surveyed)
    surveyed.add_argument("--seed", type=int, default=0)
    for sub in (pruned, evaluated, surveyed):
        sub.add_argument(
            "--data",
            required=True,
            metavar="D",
            help="demo, an image folder, a zip of one, or cifar10:FOLDER",
        )
    for sub in (pruned, evaluated):
        sub.add_argument("--limit", type=int, metavar="N", help="test on at most N images")
        sub.add_argument("--seed", type=int, default=0)
    timed = command("bench", run_bench, "Latency of two models, measured in turns, with a verdict.")
    timed.add_argument("--against", required=True, metavar="B", help="the model to compare with")
    timed.add_argument("--against-weights", type=Path, metavar="FILE")
    timed.add_argument("--batch", type=listed(int), default=[1, 8], metavar="1,8")
    timed.add_argument("--threads", type=int, metavar="N")
    timed.add_argument("--rounds", type=int, default=30)
    timed.add_argument(
        "--backend", type=listed(str, tuple(BACKENDS)), default=["torch"], metavar=",".join(BACKENDS)
    )
    exported = command("export", _export, "Write bundle, ONNX or pt2, each checked against the model.")
    exported.add_argument(
        "--format", type=listed(str, FORMATS), default=["bundle"], metavar=",".join(FORMATS)
    )
    exported.add_argument("--out", type=Path, required=True, metavar="DIR")
    measured = command("heads", commands_heads.run, "What every head is worth, by every measure.")
    commands_heads.add_arguments(measured)
    add_commands(commands)
    add_report(commands)
    for sub in (pruned, surveyed, recovered, evaluated, timed, exported, estimate, measured):
        sub.add_argument("--weights", type=Path, metavar="FILE", help="local weights of a timm model")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    args = _parser().parse_args(argv)
    bars = _Bars()
    try:
        result = args.run(args, bars)
    except ValueError as error:
        bars.close()
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (OSError, ExportError, RunFailed) as error:
        bars.close()
        print(f"error: {error}", file=sys.stderr)
        return 1
    except Cancelled:
        bars.close()
        print("cancelled", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        bars.close()
        print("interrupted: nothing was written", file=sys.stderr)
        return 1
    bars.close()
    _print(result, args.json)
    return 0
