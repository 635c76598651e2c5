"""Command line arguments that several commands share."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from pruning.budget import BUDGET_UNITS, Budget
from pruning.bundle import require_free
from pruning.cli.output import Result
from pruning.cut import Head, HeadLocks, PerBlock, Ratios, parse_heads, presets
from pruning.jobs import default_align, default_skip_unread
from pruning.methods import METHODS


def what_to_remove(args: argparse.Namespace) -> Result:
    """The fields of a job that `add_ratios` asks for.

    Raises:
        ValueError: values out of their range.
    """
    ratios = {field.name: getattr(args, field.name) for field in fields(Ratios)}
    budget = {field.name: getattr(args, f"budget_{field.name}") for field in fields(Budget)}
    given = {name: value for name, value in budget.items() if value is not None}
    asked = Budget(**given) if given else None
    return {
        "ratios": Ratios(**{name: value for name, value in ratios.items() if value is not None}),
        "preset": args.preset,
        "budget": asked,
        "align": default_align(asked) if args.align is None else args.align,
        "locks": HeadLocks(args.keep_heads, args.remove_heads),
        "skip_unread": default_skip_unread(asked) if args.skip_unread is None else args.skip_unread,
    }


def given_heads(text: str) -> tuple[Head, ...]:
    """Heads as B.H,..., for `argparse`."""
    try:
        return parse_heads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _per_block(text: str) -> PerBlock:
    numbers = tuple(float(word) for word in text.split(","))
    return numbers if len(numbers) > 1 else numbers[0]


def name_value(text: str) -> tuple[str, str]:
    """An option as NAME=VALUE, for `argparse`."""
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"write NAME=VALUE, got {text!r}")
    return name, value


def listed(kind: Callable[[str], Any], allowed: Sequence[str] = ()) -> Callable[[str], list[Any]]:
    """Values with commas between them, for `argparse`; only those `allowed`, if any are."""

    def parse(text: str) -> list[Any]:
        values = [kind(word) for word in text.split(",")]
        for value in values:
            if allowed and value not in allowed:
                raise argparse.ArgumentTypeError(f"{value!r} is none of {', '.join(allowed)}")
        return values

    return parse


def as_text(path: Path | None) -> str | None:
    """A path as jobs hold it."""
    return str(path) if path else None


def require_out(args: argparse.Namespace) -> None:
    """Check --out now, not after minutes of work.

    Raises:
        ValueError: it is missing, or something is there already.
    """
    if args.out is None:
        raise ValueError("say where the bundle goes: --out DIR, or --detach for a run of its own")
    require_free(args.out)


def add_data(parser: argparse.ArgumentParser) -> None:
    """Add --data and --seed."""
    parser.add_argument(
        "--data", required=True, metavar="D", help="demo, an image folder, a zip of one, or cifar10:FOLDER"
    )
    parser.add_argument("--seed", type=int, default=0)


def add_limit(parser: argparse.ArgumentParser) -> None:
    """Add --limit."""
    parser.add_argument("--limit", type=int, metavar="N", help="test on at most N images")


def add_method(parser: argparse.ArgumentParser) -> None:
    """Add --method and --option."""
    parser.add_argument("--method", default="snp", metavar="NAME", help=f"one of {', '.join(METHODS)}")
    parser.add_argument("--option", type=name_value, action="append", default=[], metavar="NAME=VALUE")


def add_ratios(parser: argparse.ArgumentParser) -> None:
    """Add what says how much is removed: ratios, a preset or a budget, and locked heads."""
    parser.add_argument("--preset", metavar="NAME", help=f"one of {', '.join(presets())}")
    parser.add_argument(
        "--align", type=int, metavar="N", help="round widths to multiples of N (1; with a budget 8)"
    )
    parser.add_argument(
        "--skip-unread",
        action=argparse.BooleanOptionalAction,
        help="the last block computes only tokens the classifier reads (on for a budget of GMACs)",
    )
    for field in fields(Ratios):
        kind = float if field.name == "embed" else _per_block
        parser.add_argument(
            f"--{field.name}", type=kind, metavar="R", help=f"fraction of {field.name} to remove"
        )
    for verb in ("keep", "remove"):
        add_locked_heads(parser, verb)
    for name, unit in BUDGET_UNITS.items():
        parser.add_argument(
            f"--budget-{name}", type=float, metavar="X", help=f"find widths for at most X {unit}"
        )
    parser.add_argument("--budget-batch", type=int, metavar="N", help="images at once, for a budget in ms")
    add_budget_images(parser)


def add_locked_heads(parser: argparse.ArgumentParser, verb: str) -> None:
    """Add --keep-heads or --remove-heads."""
    parser.add_argument(
        f"--{verb}-heads",
        type=given_heads,
        default=(),
        metavar="B.H,...",
        help=f"heads to {verb} in any case",
    )


def add_budget_images(parser: argparse.ArgumentParser) -> None:
    """Add --budget-images."""
    parser.add_argument(
        "--budget-images", type=int, metavar="N", help="calibration images that sensitivities are measured on"
    )


def add_calibration(parser: argparse.ArgumentParser) -> None:
    """Add --calibration."""
    parser.add_argument("--calibration", metavar="D", help="other images to measure importance on")
