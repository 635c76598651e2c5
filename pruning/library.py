"""The project as a library: models in memory or by name, and any data loader.

    from pruning import evaluate, load, prune, save

A data loader gives batches again each time it is iterated over: tuples (images, labels), or dictionaries
with `pixel_values` (or `image`, `images`) and `labels` (or `label`). Images are B C Y X, ready for the model.
A model without a classifier takes images without labels, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from analysis.data import CALIBRATION_IMAGES, ImageSet
from analysis.measure import Evaluation, evaluate_features
from analysis.measure import evaluate as measure
from analysis.models import LoadedModel, Preprocess, Reading, load_module
from analysis.models import load as load_named
from analysis.outputs import CLASSIFY
from pruning.budget import Budget
from pruning.cut import Plan, Ratios
from pruning.export import export_formats
from pruning.jobs import (
    Job,
    Prepared,
    cost_report,
    default_align,
    make_smaller,
    require_feasible,
)
from pruning.progress import Progress, as_monitor, quiet
from pruning.quantize import quantized_formats

Model = LoadedModel | nn.Module | str | Path
Batch = Any  # a tuple of images and labels, or a dictionary

_IMAGES = ("pixel_values", "image", "images", "img")
_LABELS = ("labels", "label", "target", "targets")


@dataclass(frozen=True)
class PrunedModel(LoadedModel):
    """A smaller model, with what its model card says of how it was made."""

    report: Mapping[str, Any] = field(default_factory=dict)
    plan: Plan | None = None


def load(model: Model, weights: str | Path | None = None, **reading: Any) -> LoadedModel:
    """Load a model by what `--model` takes, or convert a module of timm or transformers.

    The result's `model` is a torch module in evaluation mode. `reading` are fields of `Reading`, such as
    `image_size=(384, 384)`, `num_classes=0` or `labels=(...)`, for models by name.

    Raises:
        ValueError: it cannot be loaded, or is not a plain Vision Transformer.
    """
    if isinstance(model, str | Path):
        return load_named(str(model), None if weights is None else Path(weights), Reading(**reading))
    if weights is not None or reading:
        raise ValueError("weights and reading options belong to models by name; this one is in memory")
    return model if isinstance(model, LoadedModel) else load_module(model)


def evaluate(
    model: Model,
    data: Iterable[Batch],
    *,
    gallery: Iterable[Batch] | None = None,
    against: Model | None = None,
) -> Evaluation:
    """Top-1 and top-5 with a 95 % interval, and the prediction of every image.

    Of a model without a classifier, top-1 is that of k nearest neighbours among the labelled images of
    `gallery` (without one, among the others of `data`), and `fidelity` says how like the features of the
    model `against` its own are. Without labels it is the share of images whose nearest one is that of
    `against`.

    Raises:
        ValueError: no images, batches of another form, or a gallery for a classifier.
    """
    loaded = load(model)
    if loaded.task == CLASSIFY:
        if gallery is not None or against is not None:
            raise ValueError("a gallery, and a model to compare with, are for models without a classifier")
        return measure(loaded.model, _on_device(data, loaded))
    dense = None if against is None else load(against)
    labelled, given = _looked_at(data)
    reference = None
    if not labelled and dense is not None:
        shown = None if gallery is None else _on_device(gallery, dense)
        reference = evaluate_features(dense.model, _on_device(data, dense), shown, labelled=False)
    return evaluate_features(
        loaded.model,
        _on_device(given if labelled else data, loaded),
        None if gallery is None else _on_device(gallery, loaded),
        labelled=labelled,
        dense=None if dense is None else dense.model,
        reference=reference,
    )


def prune(
    model: Model,
    data: Iterable[Batch],
    method: str = "spectral",
    *,
    gmacs: float | None = None,
    params: float | None = None,
    ratios: Mapping[str, Any] | None = None,
    tokens: int | tuple[int, ...] | None = None,
    options: Mapping[str, Any] | None = None,
    compensate: bool = False,
    images: int = CALIBRATION_IMAGES,
    seed: int = 0,
    progress: Progress = quiet,
) -> PrunedModel:
    """A smaller model; the one given is not changed.

    Either a budget, `gmacs` of one image or `params`; or `ratios`, the fractions to remove by the names `qk`,
    `v`, `mlp`, `heads`, `embed`, and `tokens`, the patch tokens that every block merges (a tuple: each). At
    most the first `images` of `data` are held in memory and measured on. `options` are the method's own.

    Raises:
        ValueError: bad input of any kind, or a method that trains (GOHSP), which needs a run.
    """
    dense = load(model)
    budget = None if gmacs is None and params is None else Budget(gmacs=gmacs, params=params)
    job = Job(
        dense.name,
        "a data loader",
        method,
        ratios=Ratios(**(ratios or {})),
        budget=budget,
        tokens=tokens,
        options=tuple((options or {}).items()),
        compensate=compensate,
        seed=seed,
        align=default_align(budget),
        skip_unread=None,
    )
    if job.trains:
        raise ValueError(f"{method} trains, which takes a run: use python -m pruning prune")
    require_feasible(job, dense)
    held = _held(data, images, dense)
    ready = replace(dense, preprocess=_AsGiven(dense.preprocess.image_size))
    made = make_smaller(Prepared(job, ready, held, held, as_monitor(progress)))
    figures = cost_report(dense.model.arch, made.model.arch)
    report = {"model": dense.name, "method": method, "job": job.to_data(), "fine_tuned": False} | figures
    name = f"{dense.name}, {method}"
    return PrunedModel(made.model.eval(), dense.preprocess, name, "pruned", report=report, plan=made.plan)


def save(
    model: Model,
    folder: str | Path,
    format: str = "bundle",
    *,
    labels: Iterable[str] = (),
    dtype: str | None = None,
) -> Path:
    """Write a model as `export --format` does: `bundle`, `transformers`, `onnx`, `pt2`, `ncnn`, `openvino`.

    `labels` name the classes, in the order of the outputs. Returns the folder, or the file in it.

    Raises:
        ValueError: the folder is not free, or the format needs images.
        OutputError: it could not be written.
    """
    loaded = load(model)
    named = Reading(labels=tuple(labels)).applied(loaded.preprocess, loaded.model.arch.num_classes)
    pruned = loaded if isinstance(loaded, PrunedModel) else None
    return export_formats(
        replace(loaded, preprocess=named),
        [format],
        Path(folder),
        report=pruned.report if pruned else None,
        plan=pruned.plan if pruned else None,
        dtype=dtype,
        known=quantized_formats(None),
    )[format]


# ---- data loaders


def _pairs(data: Iterable[Batch], loaded: LoadedModel) -> Iterator[tuple[Tensor, Tensor]]:
    """Images and labels of every batch; where a model needs no labels and there are none, zeros.

    Raises:
        ValueError: a batch of another form, or one that is not for this model.
    """
    for batch in data:
        images, labels = _parts(batch)
        if labels is None and loaded.task != CLASSIFY and isinstance(images, Tensor):
            labels = torch.zeros(len(images), dtype=torch.int64)
        if not (isinstance(images, Tensor) and images.ndim == 4 and isinstance(labels, Tensor)):
            raise ValueError(
                "the data must give batches of images B C Y X with their labels: tuples, or dictionaries "
                f"with {_IMAGES[0]} and {_LABELS[0]}"
            )
        _require_images(images, loaded)
        _require_labels(labels, len(images), loaded.model.arch.num_classes)
        yield images, labels


def _parts(batch: Batch) -> tuple[Any, Any]:
    """Images and labels as they come; None for what is not there."""
    if isinstance(batch, Mapping):
        found = (next((batch[name] for name in names if name in batch), None) for names in (_IMAGES, _LABELS))
        images, labels = found
        return images, labels
    if isinstance(batch, tuple | list):
        both = [*batch[:2], None, None]
        return both[0], both[1]
    return batch, None


def _looked_at(data: Iterable[Batch]) -> tuple[bool, Iterable[Batch]]:
    """Whether the first batch has labels, and the same batches again."""
    batches = iter(data)
    first = next(batches, None)
    return first is None or _parts(first)[1] is not None, chain([] if first is None else [first], batches)


def _require_images(images: Tensor, loaded: LoadedModel) -> None:
    arch = loaded.model.arch
    expected = (arch.in_channels, *arch.image_size)
    if images.shape[1:] != expected or not images.is_floating_point():
        wanted, got = (" x ".join(map(str, shape)) for shape in (expected, images.shape[1:]))
        raise ValueError(
            f"images must be ready for the model, floats of {wanted}, got {images.dtype} of {got}"
        )


def _require_labels(labels: Tensor, images: int, classes: int) -> None:
    if labels.shape != (images,) or labels.is_floating_point() or labels.is_complex():
        shape = " x ".join(map(str, labels.shape)) or "none"
        raise ValueError(
            f"labels must be whole numbers, one for each of the {images} images of a batch, "
            f"got {labels.dtype} of shape {shape}"
        )
    if images and not (int(labels.min()) >= 0 and (not classes or int(labels.max()) < classes)):
        most = f" to {classes - 1}" if classes else ""
        raise ValueError(f"labels must be from 0{most}, got {int(labels.min())} to {int(labels.max())}")


class _AsGiven(Preprocess):
    """For images that the data loader has made ready."""

    def __call__(self, image: Any) -> Tensor:
        return image


@dataclass(frozen=True)
class _Held:
    """Images that are held in memory."""

    names: tuple[str, ...]
    images: tuple[Tensor, ...]

    def image(self, item: int) -> Any:
        return self.images[item]

    def content(self, item: int) -> bytes:
        return self.images[item].numpy().tobytes()


def _on_device(data: Iterable[Batch], loaded: LoadedModel) -> Iterator[tuple[Tensor, Tensor]]:
    device = next(loaded.model.parameters()).device
    return ((images.to(device), labels.to(device)) for images, labels in _pairs(data, loaded))


def _held(data: Iterable[Batch], most: int, loaded: LoadedModel) -> ImageSet:
    images: list[Tensor] = []
    labels: list[int] = []
    for batch, found in _pairs(data, loaded):
        images += batch.detach().to("cpu", torch.float32)
        labels += [int(label) for label in found]
        if len(images) >= most:
            break
    if not images:
        raise ValueError("the data gave no images")
    count = loaded.model.arch.num_classes or max(labels) + 1
    classes = tuple(loaded.preprocess.label(index) for index in range(count))
    names = tuple(f"{label}/{number:06d}" for number, label in enumerate(labels[:most]))
    source = _Held(names, tuple(images[:most]))
    return ImageSet("a data loader", classes, source, tuple(labels[:most]), tuple(range(len(names))))
