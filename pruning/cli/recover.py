"""The command `recover`, and the options of `prune` that recover behind it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from pruning.cli.arguments import add_limit, as_text, name_value
from pruning.cli.output import Result, say
from pruning.cli.runs import add_detach, make_bundle
from pruning.jobs import RecoverJob, run_recover
from pruning.progress import PrintingMonitor, Progress
from pruning.training import recovery_options


def run(args: argparse.Namespace, progress: Progress) -> Result:
    """Fine-tune the model and write its bundle, or begin a run that does.

    Raises:
        ValueError: bad input of any kind, in one sentence.
        OSError: the bundle could not be written.
    """
    job = RecoverJob(
        model=args.model,
        teacher=args.teacher,
        data=args.data,
        weights=as_text(args.weights),
        teacher_weights=as_text(args.teacher_weights),
        test_data=args.test,
        options=given_options(args),
        limit=args.limit,
        seed=args.seed,
    )
    return make_bundle(job, args, lambda: run_recover(job, PrintingMonitor(progress, say)))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """All that `recover` takes besides --model, --weights and --json."""
    parser.add_argument("--teacher", required=True, metavar="T", help="the dense model it learns from")
    parser.add_argument("--teacher-weights", type=Path, metavar="FILE")
    parser.add_argument("--data", required=True, metavar="D", help="images to train on")
    parser.add_argument("--test", metavar="D2", help="other images to test on; else a part of D is held out")
    add_limit(parser)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, metavar="DIR")
    add_options(parser)
    add_detach(parser)


def add_options(parser: argparse.ArgumentParser) -> None:
    """How it is recovered: --epochs and --recover-option."""
    parser.add_argument("--epochs", type=int, metavar="N", help="how often all training images are seen")
    parser.add_argument(
        "--recover-option",
        type=name_value,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        dest="recovery",
    )


def add_recovery(parser: argparse.ArgumentParser) -> None:
    """Recovery behind another command: --recover, and how."""
    parser.add_argument("--recover", action="store_true", help="fine-tune it with the dense model as teacher")
    add_options(parser)


def given_recovery(args: argparse.Namespace) -> tuple[tuple[str, Any], ...] | None:
    """The recovery that `add_recovery` asks for, None if it does not.

    Raises:
        ValueError: options of a recovery that is not asked for, or bad ones.
    """
    options = given_options(args)
    if options and not args.recover:
        raise ValueError("--epochs and --recover-option need --recover")
    return options if args.recover else None


def given_options(args: argparse.Namespace) -> tuple[tuple[str, Any], ...]:
    """The recovery options that a user wrote.

    Raises:
        ValueError: an unknown option, or a value of another kind.
    """
    epochs = {} if args.epochs is None else {"epochs": args.epochs}
    return tuple((dict(recovery_options(args.recovery)) | epochs).items())
