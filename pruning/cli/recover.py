"""The command `recover`, and the recovery options of `prune`."""

from __future__ import annotations

import argparse
from typing import Any

from pruning.cli.arguments import (
    add_dtype,
    add_limit,
    add_seed,
    as_text,
    name_argument,
    name_value,
    path_argument,
    reading_from,
    whole_number,
)
from pruning.cli.output import Result, log_line
from pruning.cli.runs import add_detach, make_bundle
from pruning.jobs import RecoverJob, run_recover
from pruning.progress import PrintingMonitor, Progress
from pruning.training import RECIPES, recovery_options


def run(args: argparse.Namespace, progress: Progress) -> Result:
    """Fine-tune a model and write its bundle, or start a run that does.

    Raises:
        ValueError: bad input of any kind, in one sentence.
        OSError: the bundle could not be written.
    """
    job = RecoverJob(
        model=args.model,
        teacher=args.teacher,
        data=args.data,
        weights=as_text(args.weights),
        reading=reading_from(args),
        teacher_weights=as_text(args.teacher_weights),
        test_data=args.test,
        options=options_from(args),
        limit=args.limit,
        seed=args.seed,
    )
    monitor = PrintingMonitor(progress, log_line)
    return make_bundle(job, args, lambda: run_recover(job, monitor, dtype=args.dtype))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `recover` besides --model, --weights and --json."""
    parser.add_argument(
        "--teacher",
        type=name_argument,
        required=True,
        metavar="T",
        help="the teacher, usually the dense model",
    )
    parser.add_argument(
        "--teacher-weights", type=path_argument, metavar="FILE", help="local weights of the teacher"
    )
    parser.add_argument("--data", type=name_argument, required=True, metavar="D", help="images to train on")
    parser.add_argument(
        "--test", type=name_argument, metavar="D2", help="images to test on (default: a held-out part of D)"
    )
    add_limit(parser)
    add_seed(parser)
    parser.add_argument("--out", type=path_argument, metavar="DIR", help="new or empty folder for the bundle")
    add_dtype(parser)
    add_options(parser)
    add_detach(parser)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the recovery options: --recipe, --epochs and --recover-option."""
    parser.add_argument(
        "--recipe",
        choices=tuple(RECIPES),
        help="named settings of the recovery, which the options below change (default: few-epochs)",
    )
    parser.add_argument(
        "--epochs", type=whole_number, metavar="N", help="number of passes over the training images"
    )
    parser.add_argument(
        "--recover-option",
        type=name_value,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        dest="recovery",
        help="set an option of the recovery; may be repeated",
    )


def add_recovery(parser: argparse.ArgumentParser) -> None:
    """Add --recover and the recovery options to another command."""
    parser.add_argument(
        "--recover", action="store_true", help="fine-tune the result with the dense model as teacher"
    )
    add_options(parser)


def recovery_from(args: argparse.Namespace) -> tuple[tuple[str, Any], ...] | None:
    """The recovery options of a command with `add_recovery`; None without --recover.

    Raises:
        ValueError: recovery options without --recover, or invalid ones.
    """
    options = options_from(args)
    if (options or args.recipe) and not args.recover:
        raise ValueError("--recipe, --epochs and --recover-option need --recover")
    return options if args.recover else None


def options_from(args: argparse.Namespace) -> tuple[tuple[str, Any], ...]:
    """The recovery options given on the command line.

    Raises:
        ValueError: an unknown option, or a value of the wrong type.
    """
    recipe = dict(RECIPES[args.recipe]) if args.recipe else {}
    epochs = {} if args.epochs is None else {"epochs": args.epochs}
    return tuple((recipe | dict(recovery_options(args.recovery)) | epochs).items())
