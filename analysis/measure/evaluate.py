"""Accuracy with its confidence interval, and agreement of two models image by image."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

Batches = Iterable[tuple[Tensor, Tensor]]  # images B C Y X, labels B


# What top-1 is about: the classifier's predictions; the votes of the k nearest neighbours by a model's
# features; or the nearest neighbour itself, which should be the dense model's.
CLASSES, KNN, NEIGHBOURS = MEASURES = ("classes", "knn", "neighbours")


@dataclass(frozen=True)
class Likeness:
    """Cosine with the dense model's features: mean over images with its 95 % interval, and 5th percentile."""

    mean: float
    low: float
    high: float
    p5: float


@dataclass(frozen=True)
class Fidelity:
    """How like the dense model's the features are on the same images.

    `pooled` is about the pooled vectors, `tokens` about the patch tokens behind the last norm, None where one
    of both models gives none; `cka` is the linear CKA of the pooled vectors.
    """

    pooled: Likeness
    tokens: Likeness | None
    cka: float


@dataclass(frozen=True)
class Evaluation:
    """Accuracy on `images` images as fractions; `top1_low` to `top1_high` is its 95 % interval.

    `predictions` and `labels` have one class index per image, in the order of the batches;
    `confidences` the softmax value of each prediction, or the share of the votes. Where `measure` is
    "neighbours", `predictions` are numbers of images, the nearest ones, and `labels` those of the dense
    model. `fidelity` belongs to features that were compared with the dense model's.
    """

    top1: float
    top5: float
    top1_low: float
    top1_high: float
    images: int
    seconds: float
    predictions: tuple[int, ...]
    labels: tuple[int, ...]
    confidences: tuple[float, ...]
    measure: str = CLASSES
    fidelity: Fidelity | None = None

    def __post_init__(self) -> None:
        if self.measure not in MEASURES:
            raise ValueError(f"`measure` must be one of {', '.join(MEASURES)}, got {self.measure!r:.40}")


@dataclass(frozen=True)
class Agreement:
    """Two models on the same images: share of equal predictions, and the images whose prediction flipped.

    `flips` are the indices of images with different predictions; `lost` those that only the first
    model predicts correctly, `gained` those that only the second does.
    """

    share: float
    flips: tuple[int, ...]
    lost: tuple[int, ...]
    gained: tuple[int, ...]


Z95 = 1.959964  # of a 95 % interval


def wilson(right: int, total: int, z: float = Z95) -> tuple[float, float]:
    """Wilson score interval of a proportion (Wilson 1927); the default z gives 95 %.

    Raises:
        ValueError: no trials, or more successes than trials.
    """
    if not 0 <= right <= total or total == 0:
        raise ValueError(f"an interval needs 0 <= right <= total and total > 0, got {right} of {total}")
    share, spread = right / total, z * z / total
    centre = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(share * (1 - share) / total + spread / (4 * total))
    # with all or none right, 0 and 1 are exact bounds; rounding errors could put the share outside them
    return max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))


def evaluate(model: nn.Module, batches: Batches) -> Evaluation:
    """Top-1 and top-5 accuracy of a model in evaluation mode; `seconds` include reading the images.

    Classes are ranked by their logits, ties by index. With fewer than five classes, top-5 is 1.

    Raises:
        ValueError: no images, or logits that are not finite.
    """
    began = time.perf_counter()
    ranks, chosen, labels, confidences = [], [], [], []
    with torch.inference_mode():
        for images, label in batches:
            logits = model(images)  # B classes
            require_finite_output(logits)
            ranks.append(_rank(logits, label))
            chosen.append(logits.argmax(dim=-1))  # the first of equal logits
            confidences.append(logits.softmax(dim=-1).amax(dim=-1))
            labels.append(label)
    if not labels:
        raise ValueError("there are no images to evaluate on")
    seconds = time.perf_counter() - began
    return summary(torch.cat(ranks), torch.cat(chosen), torch.cat(labels), torch.cat(confidences), seconds)


def require_finite_output(values: Tensor) -> None:
    """Refuse what a model gives if it is no number.

    Raises:
        ValueError: it is not finite.
    """
    if not bool(values.isfinite().all()):
        raise ValueError(
            "the model's output is not finite (NaN or infinite) on these images: check its weights, "
            "and the mean and standard deviation of its preprocessing"
        )


def summary(
    rank: Tensor,
    prediction: Tensor,
    truth: Tensor,
    confidence: Tensor,
    seconds: float,
    *,
    measure: str = CLASSES,
    fidelity: Fidelity | None = None,
) -> Evaluation:
    """An evaluation from what was found of each image, B each; `rank` counts what comes before the truth."""
    right, total = int((prediction == truth).sum()), len(truth)
    low, high = wilson(right, total)
    return Evaluation(
        top1=right / total,
        top5=int((rank < 5).sum()) / total,
        top1_low=low,
        top1_high=high,
        images=total,
        seconds=seconds,
        predictions=tuple(prediction.tolist()),
        labels=tuple(truth.tolist()),
        confidences=tuple(confidence.tolist()),
        measure=measure,
        fidelity=fidelity,
    )


def _rank(logits: Tensor, label: Tensor) -> Tensor:
    """Number of classes ranked before the true one, by logit and then by index: B."""
    own = logits.gather(-1, label[:, None])
    earlier = torch.arange(logits.shape[-1], device=logits.device) < label[:, None]
    return ((logits > own) | ((logits == own) & earlier)).sum(dim=-1)


def agreement(first: Evaluation, second: Evaluation) -> Agreement:
    """Compare the predictions of two evaluations of the same images.

    Raises:
        ValueError: the evaluations are not of the same images.
    """
    require_same_images(first, second)
    triples = list(zip(first.predictions, second.predictions, first.labels, strict=True))
    flips = tuple(i for i, (a, b, _) in enumerate(triples) if a != b)
    return Agreement(
        share=1 - len(flips) / len(triples),
        flips=flips,
        lost=tuple(i for i in flips if triples[i][0] == triples[i][2]),
        gained=tuple(i for i in flips if triples[i][1] == triples[i][2]),
    )


def require_same_images(first: Evaluation, second: Evaluation) -> None:
    """Check that two evaluations can be compared image by image.

    Raises:
        ValueError: the evaluations are not of the same images.
    """
    if first.labels != second.labels or first.measure != second.measure:
        raise ValueError("both evaluations must be of the same images in the same order")
