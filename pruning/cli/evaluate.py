"""The command `evaluate`."""

from __future__ import annotations

import argparse

from analysis.data import ImageSet, open_data, require_apart
from analysis.models import LoadedModel, Named, load, load_named
from analysis.outputs import CLASSIFY
from pruning.cli.arguments import add_data, add_limit, as_text, name_argument, path_argument, reading_from
from pruning.cli.output import Result, log_line
from pruning.evaluation import EvaluationImages, evaluate_model
from pruning.jobs import accuracies, likeness_report
from pruning.progress import Progress
from pruning.training import require_pair


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `evaluate` besides --model, --weights and --json."""
    add_data(parser)
    add_limit(parser)
    parser.add_argument(
        "--gallery",
        type=name_argument,
        metavar="D2",
        help="labelled images among which a model without a classifier finds neighbours (default: D itself)",
    )
    parser.add_argument(
        "--against",
        type=name_argument,
        metavar="DENSE",
        help="of a model without a classifier: the dense model that its features are compared with",
    )
    parser.add_argument(
        "--against-weights", type=path_argument, metavar="FILE", help="local weights of the dense model"
    )


def run(args: argparse.Namespace, progress: Progress) -> Result:
    """Measure the accuracy of a model on test images; of one without a classifier that of its features.

    Raises:
        ValueError: bad input of any kind, in one sentence.
    """
    loaded = load(args.model, args.weights, reading_from(args))
    dense = _against(args, loaded)
    images = open_data(args.data, loaded.preprocess, loaded.model.arch.num_classes)
    for note in (*loaded.notes, *images.notes):
        log_line(f"note: {note}")
    if args.limit is not None:
        images = images.sample(args.limit, args.seed)
    gallery = _gallery(args, loaded)
    if gallery is not None:
        require_apart(gallery, images)
    tested = EvaluationImages.of(images, gallery)
    reference = (
        None if dense is None else evaluate_model(dense, tested, "Evaluating the dense model", progress)
    )
    result = evaluate_model(loaded, tested, "Evaluating", progress, dense=dense, reference=reference)
    before = {} if reference is None else {f"{k}_before": v for k, v in accuracies(reference).items()}
    return {
        **accuracies(result),
        **before,
        **likeness_report(result),
        "images": result.images,
        "seconds": result.seconds,
        "images_per_second": result.images / result.seconds,
    }


def _against(args: argparse.Namespace, loaded: LoadedModel) -> LoadedModel | None:
    """The dense model, for a model whose features are compared with its.

    Raises:
        ValueError: a classifier, or a dense model that does not fit.
    """
    if loaded.task == CLASSIFY:
        if args.against or args.gallery:
            raise ValueError(
                f"--gallery and --against are about features, but {loaded.name} has a classifier: "
                "leave them out, or leave the classifier out with --num-classes 0"
            )
        return None
    if args.against is None:
        if args.against_weights is not None:
            raise ValueError("--against-weights needs --against")
        return None
    dense = load_named(Named(args.against, as_text(args.against_weights), reading_from(args)))
    require_pair(loaded, dense)
    return dense


def _gallery(args: argparse.Namespace, loaded: LoadedModel) -> ImageSet | None:
    if args.gallery is None:
        return None
    gallery = open_data(args.gallery, loaded.preprocess, loaded.model.arch.num_classes, "learn")
    for note in gallery.notes:
        log_line(f"note: {note}")
    return gallery
