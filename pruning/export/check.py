"""What exported files share: names, example images, metadata, and the check against the model."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from analysis.models import Preprocess
from analysis.outputs import CLASSIFY, FEATURES, task_of
from analysis.vit import ViT

TOLERANCE = 1e-4  # on logits, relative to the largest logit if that is above one
INPUT, LOGITS = "images", "logits"
OUTPUTS = LOGITS, FEATURES  # the one of a classifier, and the pooled one of a model without


class ExportError(RuntimeError):
    """An exported file does not compute the same logits as the model."""


def output_name(model: ViT) -> str:
    """What the output of a model is called in files."""
    return LOGITS if task_of(model) == CLASSIFY else FEATURES


def portable(model: ViT) -> ViT:
    """A copy for exporting, which must not touch a model that may be in use elsewhere."""
    return copy.deepcopy(model).to("cpu", torch.float32).eval()


def example_images(model: ViT, count: int, trial: int = 0) -> Float[Tensor, "B C Y X"]:
    """Random images of the model's size, the same ones every time; others for each trial."""
    shape = (count, model.arch.in_channels, *model.arch.image_size)
    return torch.randn(shape, generator=torch.Generator().manual_seed(count + 100 * trial))


def dynamic_batch() -> dict[str, dict[int, Any]]:
    """What torch's exporters are told about the shapes: the batch size may vary."""
    return {INPUT: {0: torch.export.Dim("batch")}}


def metadata(preprocess: Preprocess | None) -> dict[str, str]:
    """What a file says about its input and its classes, as JSON."""
    if preprocess is None:
        return {}
    labels = json.dumps(preprocess.labels, ensure_ascii=False)
    return {"preprocess": preprocess.to_json(), "labels": labels}


@contextmanager
def without_library_warnings() -> Iterator[None]:
    """Silence what torch's exporters warn about in torch's own code."""
    with warnings.catch_warnings():
        # torch's exporter warns about torch's own tree code, which callers cannot change
        warnings.filterwarnings("ignore", r".*isinstance\(treespec, LeafSpec\)", FutureWarning)
        yield


def check_logits(format: str, run: Callable[[Tensor], Tensor], model: ViT) -> None:
    """Compare logits at two batch sizes, both different from the one used for exporting.

    Raises:
        ExportError: the logits differ, or are not finite.
    """
    for count in (1, 3):
        errors = (_error(run, model, example_images(model, count, trial)) for trial in range(_trials(model)))
        least = float("inf")
        for error, allowed in errors:
            if error <= allowed:  # NaN is refused too
                break
            least = min(least, error) if error == error else least
        else:
            by = "nan" if least == float("inf") else f"{least:.2g}"
            what = output_name(model)
            raise ExportError(
                f"the {format} file computes different {what} than the model (by {by}, batch {count})"
            )


def _trials(model: ViT) -> int:
    """How many batches may differ before a file is refused.

    The patches of random images are all alike: where tokens merge, two pairs may be so nearly equally far
    apart that rounding decides between them. A file that is wrong is so for every batch.
    """
    return 5 if model.arch.merges else 1


def _error(run: Callable[[Tensor], Tensor], model: ViT, images: Tensor) -> tuple[float, float]:
    """The largest difference of a logit, and what is allowed."""
    with torch.inference_mode():
        expected, got = model(images), run(images)
    return float((got - expected).abs().max()), TOLERANCE * max(1.0, float(expected.abs().max()))
