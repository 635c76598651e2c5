"""Nearest neighbours, likeness and CKA of features: against loops and definitions."""

from __future__ import annotations

import math
import statistics
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from analysis.measure import KNN, NEIGHBOURS, evaluate_features, evaluate_vectors, linear_cka, wilson
from analysis.measure import features as module
from analysis.outputs import output
from tests.support.models import TINY, random_images, random_vit

HEADLESS = replace(TINY, num_classes=0)
QUERIES, SHOWN = 13, 31


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def labels(count: int, classes: int = 4, seed: int = 0) -> Tensor:
    return torch.randint(classes, (count,), generator=torch.Generator().manual_seed(seed))


def cosine(a: list[float], b: list[float]) -> float:
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def votes(query: list[float], gallery: list[list[float]], classes: list[int], k: int) -> dict[int, float]:
    """The rule of DINO, image by image."""
    near = sorted(
        ((cosine(query, one), label) for one, label in zip(gallery, classes, strict=True)), reverse=True
    )
    found: dict[int, float] = {}
    for similarity, label in near[:k]:
        found[label] = found.get(label, 0.0) + math.exp(similarity / 0.07)
    return found


@pytest.fixture
def model():
    return random_vit(HEADLESS)


def pooled(model, images: Tensor) -> list[list[float]]:
    with torch.no_grad():
        return model(images).double().tolist()


def test_k_nearest_neighbours_from_loops(model) -> None:
    queries, shown = random_images(HEADLESS, QUERIES), random_images(HEADLESS, SHOWN, seed=1)
    own, known = labels(QUERIES), labels(SHOWN, seed=1)
    found = evaluate_features(model, [(queries[:8], own[:8]), (queries[8:], own[8:])], [(shown, known)])
    gallery, right, five = pooled(model, shown), 0, 0
    for place, query in enumerate(pooled(model, queries)):
        cast = votes(query, gallery, known.tolist(), 20)
        best = max(cast, key=lambda label: cast[label])
        assert found.predictions[place] == best
        assert found.confidences[place] == pytest.approx(cast[best] / sum(cast.values()), rel=1e-4)
        right += best == int(own[place])
        five += int(own[place]) in sorted(cast, key=lambda label: -cast[label])[:5]
    assert found.top1 == right / QUERIES and found.top5 == five / QUERIES
    assert (found.top1_low, found.top1_high) == wilson(right, QUERIES)
    assert found.measure == KNN and found.labels == tuple(own.tolist()) and found.fidelity is None


def test_without_a_gallery_every_image_is_asked_about_the_others(model) -> None:
    images, own = random_images(HEADLESS, QUERIES), labels(QUERIES)
    found = evaluate_features(model, [(images, own)])
    vectors = pooled(model, images)
    for place, query in enumerate(vectors):
        others = [i for i in range(QUERIES) if i != place]
        cast = votes(query, [vectors[i] for i in others], [int(own[i]) for i in others], 20)
        assert found.predictions[place] == max(cast, key=lambda label: cast[label])
    same = evaluate_vectors([(model(images).detach(), own)])
    assert same.predictions == found.predictions and same.measure == KNN


def test_a_class_that_nobody_votes_for_is_ranked_behind_all() -> None:
    gallery = torch.eye(3)
    found = evaluate_vectors([(gallery, torch.tensor([0, 1, 7]))])
    assert found.top5 < 1  # the only image of class 7 finds none of its class


def test_agreement_of_nearest_neighbours_without_labels(model) -> None:
    other = random_vit(HEADLESS, seed=5)
    images, none = random_images(HEADLESS, QUERIES), torch.zeros(QUERIES, dtype=torch.long)
    dense = evaluate_features(model, [(images, none)], labelled=False)
    found = evaluate_features(other, [(images, none)], labelled=False, dense=model, reference=dense)
    nearest = []
    for one in (model, other):
        vectors = pooled(one, images)
        nearest.append(
            [
                max((i for i in range(QUERIES) if i != place), key=lambda i: cosine(query, vectors[i]))
                for place, query in enumerate(vectors)
            ]
        )
    assert dense.measure == NEIGHBOURS and dense.top1 == 1 and dense.labels == tuple(nearest[0])
    assert found.predictions == tuple(nearest[1]) and found.labels == tuple(nearest[0])
    same = sum(a == b for a, b in zip(*nearest, strict=True))
    assert found.top1 == same / QUERIES
    with pytest.raises(ValueError, match="must be of the same images"):
        evaluate_features(other, [(images[:5], none[:5])], labelled=False, reference=dense)


def test_likeness_from_loops(model) -> None:
    other, images = random_vit(HEADLESS, seed=5), random_images(HEADLESS, QUERIES)
    found = evaluate_features(other, [(images[:4], labels(4)), (images[4:], labels(9))], dense=model).fidelity
    assert found is not None and found.tokens is not None
    with torch.no_grad():
        given = [output(one, images) for one in (model, other)]
    assert given[0].patches is not None and given[1].patches is not None
    alone = [cosine(a.tolist(), b.tolist()) for a, b in zip(given[0].vectors, given[1].vectors, strict=True)]
    each = [
        [cosine(a.tolist(), b.tolist()) for a, b in zip(rows, others, strict=True)]
        for rows, others in zip(given[0].patches, given[1].patches, strict=True)
    ]
    for got, means, values in (
        (found.pooled, alone, alone),
        (found.tokens, [sum(row) / len(row) for row in each], [one for row in each for one in row]),
    ):
        mean = sum(means) / QUERIES
        half = 1.959964 * statistics.stdev(means) / math.sqrt(QUERIES)
        assert got.mean == pytest.approx(mean, abs=1e-5)
        assert (got.low, got.high) == pytest.approx((mean - half, mean + half), abs=1e-5)
        assert got.p5 == pytest.approx(float(np.percentile(values, 5)), abs=1e-5)
    assert found.cka == pytest.approx(by_definition(given[0].vectors, given[1].vectors), rel=1e-4)


def test_a_model_is_like_itself(model) -> None:
    images = random_images(HEADLESS, QUERIES)
    found = evaluate_features(model, [(images, labels(QUERIES))], dense=model).fidelity
    assert found is not None and found.tokens is not None
    for one in (found.pooled, found.tokens):
        assert (one.mean, one.low, one.p5) == pytest.approx((1.0, 1.0, 1.0), abs=1e-6)
    assert found.cka == pytest.approx(1)


def by_definition(x: Tensor, y: Tensor) -> float:
    """HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)) with HSIC(K, L) = tr(K H L H) and the centring matrix H."""
    x, y, count = x.double(), y.double(), len(x)
    centre = torch.eye(count, dtype=torch.float64) - torch.ones(count, count, dtype=torch.float64) / count
    kernels = [x @ x.T, y @ y.T]

    def hsic(a: Tensor, b: Tensor) -> float:
        return float((a @ centre @ b @ centre).trace())

    return hsic(*kernels) / math.sqrt(hsic(kernels[0], kernels[0]) * hsic(kernels[1], kernels[1]))


def test_cka_from_its_definition() -> None:
    x, y = random(9, 4) + 3, random(9, 6, seed=1) - 1
    assert linear_cka(x, y) == pytest.approx(by_definition(x, y), rel=1e-5)
    turn = torch.linalg.qr(random(4, 4, seed=2))[0]
    assert linear_cka(x, 3 * x @ turn + 5) == pytest.approx(1, rel=1e-5)
    assert linear_cka(torch.ones(3, 2), torch.ones(3, 2)) == 1 and linear_cka(torch.ones(9, 2), y) == 0


def test_many_queries_are_compared_in_parts(model, monkeypatch) -> None:
    images, own = random_images(HEADLESS, QUERIES), labels(QUERIES)
    whole = evaluate_features(model, [(images, own)])
    monkeypatch.setattr(module, "_CHUNK", 4)
    found = evaluate_features(model, [(images, own)])
    assert replace(found, seconds=0) == replace(whole, seconds=0)


def test_what_cannot_be_evaluated(model) -> None:
    images = random_images(HEADLESS, 2)
    with pytest.raises(ValueError, match=r"^there are no images to evaluate on"):
        evaluate_features(model, [])
    with pytest.raises(ValueError, match=r"^neighbours need at least 2 images"):
        evaluate_features(model, [(images[:1], labels(1))])
    with pytest.raises(ValueError, match="not finite"):
        evaluate_features(model, [(images * torch.inf, labels(2))])
    narrow = random_vit(replace(HEADLESS, embed_dim=16))
    with pytest.raises(ValueError, match=r"^features of 16 channels cannot be compared"):
        evaluate_features(narrow, [(images, labels(2))], dense=model)
