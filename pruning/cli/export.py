"""The command `export`."""

from __future__ import annotations

import argparse
from pathlib import Path

from analysis.models import LoadedModel, load
from pruning.cli.arguments import (
    SORTED,
    add_calibration,
    add_dtype,
    add_limit,
    add_seed,
    as_text,
    comma_separated,
    name_argument,
    path_argument,
    reading_from,
)
from pruning.cli.output import Result, log_line
from pruning.export import (
    FOLDERS,
    export_formats,
    push,
    require_exportable,
    require_hub,
    require_packages,
    written_names,
)
from pruning.jobs import Job, prepare
from pruning.progress import PrintingMonitor, Progress
from pruning.quantize import (
    FORMATS,
    INT8_FORMATS,
    QuantizedReport,
    QuantizeImages,
    quantized_formats,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `export` besides --model, --weights and --json."""
    parser.add_argument(
        "--format", type=comma_separated(str, FORMATS), default=["bundle"], metavar=",".join(FORMATS)
    )
    parser.add_argument(
        "--out", type=path_argument, required=True, metavar="DIR", help="folder for the files"
    )
    parser.add_argument(
        "--data", type=name_argument, metavar="D", help="images on which an int8 file is measured"
    )
    parser.add_argument(
        "--push-to-hub",
        type=name_argument,
        metavar="OWNER/NAME",
        help="upload the files to this repository on the Hugging Face hub, which is made (private) if new",
    )
    add_calibration(parser)
    add_limit(parser)
    add_seed(parser)
    add_dtype(parser)


def run(args: argparse.Namespace, progress: Progress) -> Result:
    """Export the model in every requested format; returns the path of each, and reports of int8 files.

    With --push-to-hub also the address of the repository.

    Raises:
        ValueError: bad input of any kind, in one sentence.
        ExportError: an exported file does not give the model's logits.
        OSError: a file could not be written.
    """
    int8 = [format for format in dict.fromkeys(args.format) if format in INT8_FORMATS]
    _require_sense(args, int8)
    require_exportable(args.out, args.format, quantized_formats(None))
    loaded = load(args.model, args.weights, reading_from(args))
    for note in () if int8 else loaded.notes:  # which `prepare` tells, too
        log_line(f"note: {note}")
    known = quantized_formats(_images(args, loaded, progress) if int8 else None, progress)
    files = export_formats(loaded, args.format, args.out, dtype=args.dtype, known=known)
    result: Result = {name: str(path) for name, path in files.items()}
    result |= {f"{format}-report": _report(files[format]) for format in int8}
    if args.push_to_hub is not None:
        names = written_names(args.out, args.format, known)
        result["hub"] = push(args.out, names, args.push_to_hub)
    return result


def _require_sense(args: argparse.Namespace, int8: list[str]) -> None:
    """Check what needs no files: int8 formats have images, others none, and their packages are there."""
    if args.dtype is not None and not set(FOLDERS) & set(args.format):
        raise ValueError(
            f"--dtype needs the format {' or '.join(FOLDERS)}: files of the other formats compute in float32"
        )
    if args.push_to_hub is not None:
        require_hub(args.push_to_hub)
    if int8 and args.data is None:
        raise ValueError(
            f"the format {int8[0]} is calibrated and measured on images: specify --data D, "
            "and --calibration D for images of another set"
        )
    if args.data is None and args.calibration is not None:
        raise ValueError("--calibration needs --data, the images on which an int8 file is measured")
    for format in args.format:
        require_packages(format)
    if not int8 and (args.calibration or (args.data and args.classes_file != SORTED)):
        raise ValueError(f"images are for int8 files: add {INT8_FORMATS[0]} to --format, or leave out --data")


def _images(args: argparse.Namespace, loaded: LoadedModel, progress: Progress) -> QuantizeImages:
    job = Job(
        model=args.model,
        weights=as_text(args.weights),
        data=args.data,
        calibration=args.calibration,
        limit=args.limit,
        seed=args.seed,
        reading=reading_from(args),
    )
    opened = prepare(job, PrintingMonitor(progress, lambda line: log_line(f"note: {line}")), loaded)
    return QuantizeImages(opened.calibration, opened.test)


def _report(file: Path) -> Result:
    return QuantizedReport.read(file.with_suffix(".json")).to_data()
