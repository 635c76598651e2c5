"""The command `kit`: a folder that times the model and its blocks on another device."""

from __future__ import annotations

import argparse

from analysis.models import architecture, load
from analysis.vit import Architecture
from pruning.cli.arguments import as_text, name_argument, path_argument, reading_from, whole_number
from pruning.cli.output import Result
from pruning.kit import require_new_kit, write_kit
from pruning.progress import Progress
from pruning.wording import base_name


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `kit` besides --model, --weights and --json."""
    parser.add_argument(
        "--against",
        type=name_argument,
        nargs="+",
        default=[],
        metavar="BUNDLE",
        help="smaller models, which are timed as a whole beside the dense one",
    )
    parser.add_argument(
        "--out", type=path_argument, required=True, metavar="DIR", help="new folder for the kit"
    )
    parser.add_argument("--zip", action="store_true", help="write a zip instead; --out is a file then")
    parser.add_argument("--int8", action="store_true", help="time everything in int8 too")
    parser.add_argument(
        "--align", type=whole_number, default=8, metavar="N", help="time multiples of N (default: 8)"
    )


def run(args: argparse.Namespace, progress: Progress) -> Result:
    """Write the kit; returns where it lies and what it holds.

    Raises:
        ValueError: bad input of any kind, in one sentence.
        ExportError: torch gives no program.
        OutputError: it could not be written.
    """
    require_new_kit(args.out, args.zip)
    reading = reading_from(args)
    dense = (
        load(args.model, args.weights, reading).model.arch
        if args.weights
        else architecture(args.model, reading)
    )
    smaller = [(_name(name), architecture(name)) for name in dict.fromkeys(args.against)]
    found = write_kit(
        dense,
        _told_apart(smaller),
        args.out,
        align=args.align,
        int8=args.int8,
        zipped=args.zip,
        progress=progress,
    )
    models = sum(entry.of is None for entry in found)
    size = sum(file.stat().st_size for file in ([args.out] if args.zip else args.out.iterdir()))
    return {"out": as_text(args.out), "models": models, "blocks": len(found) - models, "bytes": size}


def _name(model: str) -> str:
    """A model's short name: the last part of its path."""
    return "".join(c for c in base_name(model) if c.isprintable())[:80] or "smaller"


def _told_apart(models: list[tuple[str, Architecture]]) -> list[tuple[str, Architecture]]:
    """The same models, numbered where names are the same or taken by the kit's own."""
    names = [name for name, _ in models]
    alike = {name for name in names if names.count(name) > 1 or name == "dense" or name.startswith("probe ")}
    numbered = enumerate(models, 1)
    return [(f"{name} ({number})" if name in alike else name, arch) for number, (name, arch) in numbered]
