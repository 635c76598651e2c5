"""The command `evaluate`."""

from __future__ import annotations

import argparse

from analysis.data import open_data
from analysis.measure import evaluate
from analysis.models import load
from pruning.cli.arguments import (
    add_data,
    add_limit,
    reading_from,
)
from pruning.cli.output import Result, log_line
from pruning.jobs import require_classifier
from pruning.progress import Progress
from pruning.tracked import tracked


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `evaluate` besides --model, --weights and --json."""
    add_data(parser)
    add_limit(parser)


def run(args: argparse.Namespace, progress: Progress) -> Result:
    """Measure the accuracy of a model on test images.

    Raises:
        ValueError: bad input of any kind, in one sentence.
    """
    loaded = load(args.model, args.weights, reading_from(args))
    require_classifier(loaded)
    images = open_data(args.data, loaded.preprocess, loaded.model.arch.num_classes)
    for note in (*loaded.notes, *images.notes):
        log_line(f"note: {note}")
    if args.limit is not None:
        images = images.sample(args.limit, args.seed)
    result = evaluate(loaded.model, tracked(images, loaded, "Evaluating", progress))
    names = ("top1", "top5", "top1_low", "top1_high", "images", "seconds")
    return {name: getattr(result, name) for name in names} | {
        "images_per_second": result.images / result.seconds
    }
