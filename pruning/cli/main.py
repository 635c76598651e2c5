"""The command line: its parser, and how the result of a command becomes output and an exit code."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import closing
from typing import Any, NoReturn, Protocol

from pruning import activations
from pruning.cli import estimate, evaluate, export, heads, prune, recover, survey
from pruning.cli.arguments import add_reading, name_argument, path_argument
from pruning.cli.latency import bench, kit
from pruning.cli.output import ProgressBars, Result, print_result
from pruning.cli.report import add_report
from pruning.cli.runs import add_commands
from pruning.cli.version import version
from pruning.export import ExportError
from pruning.progress import Cancelled, Progress
from pruning.runs import RunFailed
from pruning.wording import printable


class _Command(Protocol):
    """The module of a command that takes a model."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None: ...

    def run(self, args: argparse.Namespace, progress: Progress) -> Result: ...


_MODEL_COMMANDS: dict[str, tuple[_Command, str]] = {
    "estimate": (estimate, "Parameters, GMACs and bytes before and after pruning, without images."),
    "prune": (prune, "Score, cut, evaluate, and write the smaller model as a bundle."),
    "recover": (recover, "Fine-tune a pruned model with the dense one as teacher."),
    "evaluate": (evaluate, "Measure top-1 and top-5 with a 95 % interval, and images per second."),
    "survey": (survey, "Measure the sensitivities that budgets are solved on, and cache them."),
    "bench": (bench, "Measure the latency of two models alternately, with a verdict."),
    "export": (export, "Export as bundle, ONNX, pt2 or OpenVINO, in float or int8; every file is checked."),
    "kit": (kit, "Write a folder that times the model and its blocks on another device."),
    "heads": (heads, "Measure every head by every head measure."),
}


class _Parser(argparse.ArgumentParser):
    """Reports bad arguments in one line on standard error with exit code 2, without the usage text."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {printable(message)} (see --help)\n")

    def _get_values(self, action: argparse.Action, arg_strings: list[str]) -> Any:
        """Refuse the value of `--option=--`, for which Python 3.11 gives an empty list."""
        if action.option_strings and arg_strings == ["--"]:
            raise argparse.ArgumentError(action, "needs a value, got '--'")
        return super()._get_values(action, arg_strings)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m pruning",
        description="Prune Vision Transformers: estimate, prune, evaluate, time, recover, export.",
    )
    parser.add_argument(
        "--version", action="version", version=f"PruneScope {version()}", help="print the version"
    )
    commands = parser.add_subparsers(dest="command", required=True, parser_class=_Parser)

    for name, (command, help) in _MODEL_COMMANDS.items():
        sub = commands.add_parser(name, help=help.replace("%", "%%"), description=help)
        sub.set_defaults(run=command.run)
        sub.add_argument("--json", action="store_true", help="print one JSON object")
        sub.add_argument(
            "--model",
            type=name_argument,
            required=True,
            metavar="M",
            help="demo, a timm name, hf-hub:ID, a bundle or a folder of transformers",
        )
        sub.add_argument(
            "--weights", type=path_argument, metavar="FILE", help="weights for a timm name, of any tool"
        )
        add_reading(sub)
        command.add_arguments(sub)
    add_commands(commands)
    add_report(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    args = _parser().parse_args(argv)
    activations.sweep()
    try:
        with closing(ProgressBars()) as bars:
            result = args.run(args, bars)
    except ValueError as error:
        return _failed(f"error: {error}", 2)
    except (OSError, ExportError, RunFailed) as error:
        return _failed(f"error: {error}", 1)
    except Cancelled:
        return _failed("cancelled", 1)
    except KeyboardInterrupt:
        return _failed("interrupted: nothing was written", 1)
    print_result(result, args.json)
    return 0


def _failed(sentence: str, code: int) -> int:
    print(printable(sentence), file=sys.stderr)
    return code
