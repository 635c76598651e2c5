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
from analysis.vit import ViT

TOLERANCE = 1e-4  # on logits, relative to the largest logit if that is above one
INPUT, OUTPUT = "images", "logits"


class ExportError(RuntimeError):
    """An exported file does not compute the same logits as the model."""


def portable(model: ViT) -> ViT:
    """A copy for exporting, which must not touch a model that may be in use elsewhere."""
    return copy.deepcopy(model).to("cpu", torch.float32).eval()


def example_images(model: ViT, count: int) -> Float[Tensor, "B C Y X"]:
    """Random images of the model's size, the same ones every time."""
    shape = (count, model.arch.in_channels, *model.arch.image_size)
    return torch.randn(shape, generator=torch.Generator().manual_seed(count))


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
        images = example_images(model, count)
        with torch.inference_mode():
            expected, got = model(images), run(images)
        error = float((got - expected).abs().max())
        if not error <= TOLERANCE * max(1.0, float(expected.abs().max())):  # NaN is refused too
            raise ExportError(
                f"the {format} file computes different logits than the model (by {error:.2g}, batch {count})"
            )
