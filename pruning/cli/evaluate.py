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
    loaded = _measured(args)
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
    if loaded.task != CLASSIFY and not tested.labelled:
        _require_answer(tested, dense)
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


def _measured(args: argparse.Namespace) -> LoadedModel:
    """The model; beside a dense one that is read with the same options, a bundle keeps its own structure."""
    reading = reading_from(args)
    if args.against is None:
        return load(args.model, args.weights, reading)
    return load_named(Named(args.model, as_text(args.weights), reading))


def _require_answer(tested: EvaluationImages, dense: LoadedModel | None) -> None:
    """Say why neighbours are neither right nor wrong by their classes, and what tells it then.

    Raises:
        ValueError: nothing does, as there is no dense model.
    """
    shown = tested.images if tested.gallery is None else tested.gallery
    lacking = tested.lacking
    why = f"{shown.name} has images of one class only"
    if lacking:
        why = f"the gallery {shown.name} has no images of class {lacking[0]!r}"
    if dense is None:
        raise ValueError(
            f"{why}, so neighbours cannot be right or wrong by it: give images of all classes, "
            "or name the dense model by --against"
        )
    log_line(f"note: {why}: nearest neighbours are compared with those of {dense.name}")


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
    require_pair(loaded, dense, both="the dense model and the one that is measured")
    return dense


def _gallery(args: argparse.Namespace, loaded: LoadedModel) -> ImageSet | None:
    if args.gallery is None:
        return None
    gallery = open_data(args.gallery, loaded.preprocess, loaded.model.arch.num_classes, "learn")
    for note in gallery.notes:
        log_line(f"note: {note}")
    return gallery
