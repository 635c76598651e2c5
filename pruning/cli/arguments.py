"""Command line arguments shared by several commands."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from analysis.data import class_folders
from analysis.models import Reading, read_classes
from analysis.paths import quoted, user_path
from pruning.budget import BUDGET_UNITS, Budget
from pruning.bundle import DTYPES, require_new_folder
from pruning.cli.output import Result
from pruning.cut import MOST_ALIGN, Head, HeadLocks, PerBlock, Ratios, parse_heads, presets
from pruning.jobs import RUNTIMES, default_align, default_skip_unread
from pruning.methods import METHODS
from pruning.wording import STRUCTURE_NAMES

Number = TypeVar("Number", int, float)
SORTED = "sorted"  # in place of a file of classes


def removal_fields(args: argparse.Namespace) -> Result:
    """The fields of a `Job` that say what to remove, from the arguments of `add_ratios`.

    Raises:
        ValueError: a value out of its range.
    """
    ratios = {field.name: getattr(args, field.name) for field in fields(Ratios)}
    budget = {field.name: getattr(args, f"budget_{field.name}") for field in fields(Budget)}
    given = {name: value for name, value in budget.items() if value is not None}
    switches = {"tokens", "depth"} & given.keys()
    if switches and not BUDGET_UNITS.keys() & given.keys():
        name = min(switches)
        raise ValueError(
            f"--budget-{name} and --no-budget-{name} belong to a budget: give one in GMACs, parameters or ms"
        )
    requested = Budget(**given) if given else None
    skip_unread = args.skip_unread
    if skip_unread is None and not default_skip_unread(requested):
        skip_unread = False
    return {
        "ratios": Ratios(**{name: value for name, value in ratios.items() if value is not None}),
        "preset": args.preset,
        "budget": requested,
        "tokens": args.tokens,
        "align": default_align(requested) if args.align is None else args.align,
        "runtime": args.runtime,
        "device": as_text(args.device),
        "locks": HeadLocks(args.keep_heads, args.remove_heads),
        "skip_unread": skip_unread,
    }


def head_list(text: str) -> tuple[Head, ...]:
    """Parse heads written as BLOCK.HEAD,..., for `argparse`."""
    try:
        return parse_heads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def whole_number(text: str) -> int:
    """Parse a whole number, for `argparse`."""
    try:
        return int(text)
    except ValueError as error:  # no number, or one of thousands of digits
        raise argparse.ArgumentTypeError(f"must be a whole number, got {quoted(text)}") from error


def number(text: str) -> float:
    """Parse a number, for `argparse`."""
    try:
        return float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"must be a number, got {quoted(text)}") from error


def per_block(text: str) -> PerBlock:
    """Parse one number, or numbers with commas between them, for `argparse`."""
    return _one_or_each(text, number, "number")


def token_counts(text: str) -> int | tuple[int, ...]:
    """Parse one whole number, or whole numbers with commas between them, for `argparse`."""
    return _one_or_each(text, whole_number, "whole number")


def _one_or_each(text: str, parse: Callable[[str], Number], kind: str) -> Number | tuple[Number, ...]:
    try:
        values = tuple(parse(word) for word in text.split(","))
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(
            f"must be one {kind}, or one for each block with commas between them, got {quoted(text)}"
        ) from error
    return values if len(values) > 1 else values[0]


def name_value(text: str) -> tuple[str, str]:
    """Parse an option NAME=VALUE, for `argparse`."""
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"must be NAME=VALUE, got {quoted(text)}")
    return name, value


def comma_separated(kind: Callable[[str], Any], allowed: Sequence[str] = ()) -> Callable[[str], list[Any]]:
    """A parser of comma-separated values, for `argparse`; with `allowed`, each must be one of these.

    `kind` parses one of them, and says what it must be.
    """

    def parse(text: str) -> list[Any]:
        values = [kind(word) for word in text.split(",")]
        for value in values:
            if allowed and value not in allowed:
                raise argparse.ArgumentTypeError(f"must be one of {', '.join(allowed)}, got {quoted(value)}")
        return values

    return parse


def path_argument(text: str) -> Path:
    """Parse the path of a file or folder, for `argparse`."""
    try:
        return user_path(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def name_argument(text: str) -> str:
    """Parse the name or path of a model or of images, for `argparse`."""
    if not text.strip():
        raise argparse.ArgumentTypeError("is empty: give a name, or the path of a file or folder")
    return text


def as_text(path: Path | None) -> str | None:
    """A path as the string that jobs hold."""
    return str(path) if path else None


def require_out(args: argparse.Namespace) -> None:
    """Check --out before the work begins, not after minutes of it.

    Raises:
        ValueError: it is missing, or names a folder that is not empty or must not be replaced.
        OutputError: nothing can be written there.
    """
    if args.out is None:
        raise ValueError("specify --out DIR for the bundle, or --detach to start a run")
    require_new_folder(args.out)


def add_dtype(parser: argparse.ArgumentParser) -> None:
    """Add --dtype."""
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        help="precision of the weights in the bundle (default: that of the model's own bundle, else float32)",
    )


def add_reading(parser: argparse.ArgumentParser) -> None:
    """Add the options that say of a model what its files do not."""
    parser.add_argument(
        "--image-size", type=image_size, metavar="Y,X", help="rows and columns of its images, or one number"
    )
    parser.add_argument(
        "--num-classes", type=whole_number, metavar="N", help="number of classes; 0 leaves the classifier out"
    )
    parser.add_argument(
        "--classes-file",
        type=name_argument,
        metavar="FILE",
        help="class names, one on each line in the order of the model's outputs; or the word "
        f"{SORTED}: the class folders of the images in the order of their names",
    )
    for name in ("mean", "std"):
        parser.add_argument(
            f"--{name}",
            type=comma_separated(number),
            metavar="R,G,B",
            help=f"{name} of the normalisation",
        )
    parser.add_argument(
        "--crop-pct", type=number, metavar="P", help="share of the resized image that is seen, 0.1 to 1"
    )


def reading_from(args: argparse.Namespace) -> Reading:
    """What the arguments of `add_reading` say.

    Raises:
        ValueError: a value that cannot be, or a file of classes that cannot be read.
    """
    labels: tuple[str, ...] = ()
    if args.classes_file == SORTED:
        data = getattr(args, "data", None)
        if data is None:
            raise ValueError(f"--classes-file {SORTED} needs --data, whose class folders it takes")
        labels = class_folders(data)
    elif args.classes_file is not None:
        labels = read_classes(user_path(args.classes_file, "the file of classes"))
    mean, std = (tuple(values) if values else None for values in (args.mean, args.std))
    return Reading(args.image_size, args.num_classes, labels, mean, std, args.crop_pct)


def image_size(text: str) -> tuple[int, int]:
    """Parse Y,X or one number for both, for `argparse`."""
    numbers = [whole_number(word) for word in text.split(",")]
    if len(numbers) > 2:
        raise argparse.ArgumentTypeError(f"must be rows and columns, got {quoted(text)}")
    return numbers[0], numbers[-1]


def add_data(parser: argparse.ArgumentParser) -> None:
    """Add --data and --seed."""
    parser.add_argument(
        "--data",
        type=name_argument,
        required=True,
        metavar="D",
        help="demo, an image folder, a zip of one, or cifar10:FOLDER",
    )
    add_seed(parser)


def add_seed(parser: argparse.ArgumentParser) -> None:
    """Add --seed."""
    parser.add_argument(
        "--seed", type=whole_number, default=0, metavar="N", help="seed of random choices (default: 0)"
    )


def add_limit(parser: argparse.ArgumentParser) -> None:
    """Add --limit."""
    parser.add_argument("--limit", type=whole_number, metavar="N", help="test on at most N images")


def add_method(parser: argparse.ArgumentParser) -> None:
    """Add --method and --option."""
    parser.add_argument("--method", default="snp", metavar="NAME", help=f"one of {', '.join(METHODS)}")
    parser.add_argument(
        "--option",
        type=name_value,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="set an option of the method; may be repeated",
    )


def add_ratios(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that say what to remove: a preset, ratios or a budget, and locked heads."""
    parser.add_argument("--preset", metavar="NAME", help=f"one of {', '.join(presets())}")
    parser.add_argument(
        "--align",
        type=whole_number,
        metavar="N",
        help=f"round widths to multiples of N, at most {MOST_ALIGN:,} (default: 8 with a budget, else 1)",
    )
    parser.add_argument(
        "--skip-unread",
        action=argparse.BooleanOptionalAction,
        help="compute only tokens that the classifier reads in the last block (default with a GMACs budget); "
        "a model without a classifier then gives its pooled features alone (never the default)",
    )
    for field in fields(Ratios):
        kind = number if field.name == "embed" else per_block
        parser.add_argument(
            f"--{field.name}",
            type=kind,
            metavar="R",
            help=f"fraction of {STRUCTURE_NAMES[field.name]} to remove",
        )
    parser.add_argument(
        "--tokens",
        type=token_counts,
        metavar="N",
        help="patch tokens that every block merges, at most half of those it is given; or numbers for each "
        "block with commas between them",
    )
    for verb in ("keep", "remove"):
        add_locked_heads(parser, verb)
    for name, unit in BUDGET_UNITS.items():
        parser.add_argument(
            f"--budget-{name}", type=number, metavar="X", help=f"find widths that need at most X {unit}"
        )
    for name, what in (("tokens", "merge tokens"), ("depth", "leave out whole attentions and MLPs")):
        parser.add_argument(
            f"--budget-{name}",
            action=argparse.BooleanOptionalAction,
            help=f"whether the budget may {what} (default: yes)",
        )
    parser.add_argument(
        "--budget-batch", type=whole_number, metavar="N", help="batch size for a budget in ms"
    )
    parser.add_argument(
        "--runtime",
        metavar="NAME",
        help=f"what times a budget in ms, one of {', '.join(RUNTIMES)} (default: torch)",
    )
    parser.add_argument(
        "--device",
        type=path_argument,
        metavar="FILE",
        help="the device.json of another device, which a budget in ms is solved on (see kit)",
    )
    add_budget_images(parser)


def add_locked_heads(parser: argparse.ArgumentParser, verb: str) -> None:
    """Add --keep-heads or --remove-heads."""
    parser.add_argument(
        f"--{verb}-heads",
        type=head_list,
        default=(),
        metavar="B.H,...",
        help=f"heads to {verb} whatever their scores, as BLOCK.HEAD",
    )


def add_budget_images(parser: argparse.ArgumentParser) -> None:
    """Add --budget-images."""
    parser.add_argument(
        "--budget-images",
        type=whole_number,
        metavar="N",
        help="number of calibration images for the sensitivities",
    )


def add_calibration(parser: argparse.ArgumentParser) -> None:
    """Add --calibration."""
    parser.add_argument(
        "--calibration", type=name_argument, metavar="D", help="separate images for measuring importance"
    )
