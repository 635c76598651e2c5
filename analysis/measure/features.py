"""Accuracy of features: k nearest neighbours in a gallery, and likeness to the dense model's features."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from analysis.measure.evaluate import (
    KNN,
    NEIGHBOURS,
    Z95,
    Batches,
    Evaluation,
    Fidelity,
    Likeness,
    require_finite_output,
    summary,
)
from analysis.outputs import Output, output
from analysis.vit import ViT

NEAREST = 20  # neighbours that vote [Caron et al. 2021]
TEMPERATURE = 0.07  # of the votes' weights [Caron et al. 2021]
_CHUNK = 512  # queries that are compared with the gallery at once


@dataclass(frozen=True, eq=False)
class Gallery:
    """Pooled features of images, as directions in float64, and the classes of the images."""

    directions: Float[Tensor, "n E"]
    labels: Int[Tensor, " n"]

    @classmethod
    def of(cls, model: ViT, batches: Batches) -> Gallery:
        """Of some images.

        Raises:
            ValueError: no images, or features that are not finite.
        """
        vectors, labels = [], []
        with torch.inference_mode():
            for images, label in batches:
                vectors.append(_finite(output(model, images)).vectors.cpu())
                labels.append(label.cpu())
        return cls.joined(vectors, labels)

    @classmethod
    def joined(cls, vectors: list[Tensor], labels: list[Tensor]) -> Gallery:
        """Of the pooled features of several batches.

        Raises:
            ValueError: no images.
        """
        if not labels:
            raise ValueError("there are no images to evaluate on")
        return cls(F.normalize(torch.cat(vectors).double(), dim=-1), torch.cat(labels))


def evaluate_features(
    model: ViT,
    queries: Batches,
    gallery: Batches | None = None,
    *,
    labelled: bool = True,
    dense: ViT | None = None,
    reference: Evaluation | None = None,
) -> Evaluation:
    """How the pooled features find images, and how like the `dense` model's all features are.

    With `labelled` images top-1 is that of k nearest neighbours in the gallery: `NEAREST` vote by cosine,
    each with weight exp(cos / `TEMPERATURE`), as Caron et al. 2021 (DINO) do. Without labels the prediction
    for an image is the number of its nearest neighbour, and right is the one of `reference`, the dense
    model's evaluation, or the model's own. Without a gallery the other queries are one.

    Raises:
        ValueError: no images, features that are not finite, or a reference of other images.
    """
    began = time.perf_counter()
    likeness = None if dense is None else _Likeness()
    vectors, labels = [], []
    with torch.inference_mode():
        for images, label in queries:
            given = _finite(output(model, images))
            vectors.append(given.vectors.cpu())
            labels.append(label.cpu())
            if likeness is not None and dense is not None:
                likeness.add(output(dense, images), given)
    asked = Gallery.joined(vectors, labels)
    shown = None if gallery is None else Gallery.of(model, gallery)
    found = _by_votes(asked, shown) if labelled else _by_nearest(asked, shown, reference)
    return summary(
        *found,
        time.perf_counter() - began,
        measure=KNN if labelled else NEIGHBOURS,
        fidelity=None if likeness is None else likeness.result(),
    )


def evaluate_vectors(
    batches: Batches, *, labelled: bool = True, reference: Evaluation | None = None
) -> Evaluation:
    """As `evaluate_features` without a gallery, of pooled features that are at hand: B E with labels B.

    Raises:
        ValueError: no images, or a reference of other images.
    """
    given = list(batches)
    asked = Gallery.joined([vectors for vectors, _ in given], [labels for _, labels in given])
    found = _by_votes(asked, None) if labelled else _by_nearest(asked, None, reference)
    return summary(*found, 0.0, measure=KNN if labelled else NEIGHBOURS)


def linear_cka(x: Float[Tensor, "n D"], y: Float[Tensor, "n E"]) -> float:
    """Linear centred kernel alignment of two sets of features of the same images (Kornblith et al. 2019).

    |Y^T X|^2 / (|X^T X| |Y^T Y|) with centred columns: 1 for features that differ by a rotation and a factor.
    1 if one of both is the same for every image, and the other is too; else 0.
    """
    x, y = (one.double() - one.double().mean(dim=0) for one in (x, y))
    own = float((x.T @ x).norm() * (y.T @ y).norm())
    if own == 0:
        return float(x.norm() == y.norm())
    return min(1.0, float((y.T @ x).square().sum()) / own)


# ---- neighbours

_Found = tuple[Tensor, Tensor, Tensor, Tensor]  # rank of the right answer, answer, right answer, confidence


def _by_votes(asked: Gallery, shown: Gallery | None) -> _Found:
    """Classes by the votes of the nearest images; a class with no vote is ranked behind all."""
    labels = (shown or asked).labels
    classes = int(torch.cat([labels, asked.labels]).max()) + 1
    ranks, chosen, sure = [], [], []
    for near, truth in _similarities(asked, shown):
        best = near.topk(min(NEAREST, _others(asked, shown)), dim=1)
        weights = ((best.values - best.values[:, :1]) / TEMPERATURE).exp()  # the largest is 1: none overflows
        votes = weights.new_zeros(len(near), classes).scatter_add(1, labels[best.indices], weights)
        own = votes.gather(1, truth[:, None])
        earlier = torch.arange(classes) < truth[:, None]
        rank = ((votes > own) | ((votes == own) & earlier)).sum(dim=1)
        ranks.append(torch.where(own[:, 0] > 0, rank, torch.full_like(rank, classes + 5)))
        chosen.append(votes.argmax(dim=1))
        sure.append(votes.amax(dim=1) / votes.sum(dim=1))
    return torch.cat(ranks), torch.cat(chosen), asked.labels, torch.cat(sure)


def _by_nearest(asked: Gallery, shown: Gallery | None, reference: Evaluation | None) -> _Found:
    """Nearest images by their number, against those of the reference."""
    right = None if reference is None else torch.tensor(reference.predictions)
    known = len((shown or asked).labels)
    if right is not None and (len(right) != len(asked.labels) or int(right.max()) >= known):
        raise ValueError("the dense model's neighbours must be of the same images")
    ranks, chosen, sure, count = [], [], [], 0
    for near, _ in _similarities(asked, shown):
        nearest = near.argmax(dim=1)
        truth = nearest if right is None else right[count : count + len(near)]
        own = near.gather(1, truth[:, None])
        earlier = torch.arange(near.shape[1]) < truth[:, None]
        ranks.append(((near > own) | ((near == own) & earlier)).sum(dim=1))
        chosen.append(nearest)
        sure.append(near.amax(dim=1).clamp(0, 1))
        count += len(near)
    answers = torch.cat(chosen)
    return torch.cat(ranks), answers, answers if right is None else right, torch.cat(sure)


def _similarities(asked: Gallery, shown: Gallery | None) -> Iterator[tuple[Tensor, Tensor]]:
    """Cosines of some queries with all of the gallery, and the queries' labels; no image finds itself."""
    _others(asked, shown)
    for start in range(0, len(asked.labels), _CHUNK):
        some = asked.directions[start : start + _CHUNK]
        near = some @ (shown or asked).directions.T
        if shown is None:
            rows = torch.arange(len(some))
            near[rows, start + rows] = -torch.inf
        yield near, asked.labels[start : start + _CHUNK]


def _others(asked: Gallery, shown: Gallery | None) -> int:
    """How many images a query is compared with.

    Raises:
        ValueError: none.
    """
    count = len(asked.labels) - 1 if shown is None else len(shown.labels)
    if not count:
        raise ValueError("neighbours need at least 2 images, got 1")
    return count


# ---- likeness to the dense model


class _Likeness:
    """Cosines of features with the dense model's, batch by batch."""

    def __init__(self) -> None:
        self._vectors: list[tuple[Tensor, Tensor]] = []
        self._pooled: list[Tensor] = []
        self._patches: list[Tensor] = []

    def add(self, dense: Output, other: Output) -> None:
        if dense.task != other.task:
            raise ValueError("features cannot be compared with a model that has a classifier")
        if dense.vectors.shape != other.vectors.shape:
            raise ValueError(
                f"features of {other.vectors.shape[-1]} channels cannot be compared with the dense model's "
                f"{dense.vectors.shape[-1]}"
            )
        self._vectors.append((dense.vectors.cpu(), other.vectors.cpu()))
        self._pooled.append(F.cosine_similarity(dense.vectors, other.vectors, dim=-1).cpu())
        if dense.patches is None or other.patches is None:
            return
        if dense.patches.shape == other.patches.shape:  # else their patches are other parts of the image
            self._patches.append(F.cosine_similarity(dense.patches, other.patches, dim=-1).cpu())

    def result(self) -> Fidelity:
        dense, other = (torch.cat(vectors) for vectors in zip(*self._vectors, strict=True))
        patches = _likeness(torch.cat(self._patches)) if self._patches else None
        return Fidelity(_likeness(torch.cat(self._pooled)[:, None]), patches, linear_cka(dense, other))


def _likeness(cosines: Float[Tensor, "B P"]) -> Likeness:
    """Mean over images of the mean over patches, with its interval, and the 5th percentile of all."""
    values = cosines.double().clamp(-1, 1)
    images = values.mean(dim=1)
    mean, count = float(images.mean()), len(images)
    half = Z95 * float(images.std()) / math.sqrt(count) if count > 1 else 2.0
    low, high = max(-1.0, mean - half), min(1.0, mean + half)
    return Likeness(mean, low, high, float(np.percentile(values.numpy(), 5)))


def _finite(found: Output) -> Output:
    require_finite_output(found.vectors)
    return found
