from __future__ import annotations

import math
import random

import pytest

from analysis.measure.confidence import ece, reliability
from analysis.measure.evaluate import Evaluation


def evaluation(confidences: list[float], right: list[bool]) -> Evaluation:
    labels = tuple(range(len(right)))
    predictions = tuple(label if ok else label + 1 for label, ok in zip(labels, right, strict=True))
    return Evaluation(0.0, 0.0, 0.0, 0.0, len(right), 1.0, predictions, labels, tuple(confidences))


def sample(seed: int, count: int = 200) -> tuple[list[float], list[bool]]:
    generator = random.Random(seed)
    confidences = [generator.random() for _ in range(count)]
    # values on the edges of fifteen bins, and both ends
    confidences[:18] = [edge / 15 for edge in range(16)] + [0.0, 1.0]
    return confidences, [generator.random() < confidence for confidence in confidences]


@pytest.mark.parametrize("bins", [1, 4, 15])
def test_against_the_formula(bins: int) -> None:
    """Twin: for every bin, look at all images; a bin is above its lower edge and up to its upper one."""
    confidences, right = sample(bins)
    total = 0.0
    found = reliability(evaluation(confidences, right), bins)
    assert len(found) == bins
    for m, bin in enumerate(found):
        inside = [i for i, c in enumerate(confidences) if m / bins < c <= (m + 1) / bins or c == m == 0]
        assert (bin.low, bin.high, bin.images) == (m / bins, (m + 1) / bins, len(inside))
        assert bin.right == sum(right[i] for i in inside)
        if inside:
            accuracy = sum(right[i] for i in inside) / len(inside)
            confidence = math.fsum(confidences[i] for i in inside) / len(inside)
            assert (bin.accuracy, bin.confidence) == pytest.approx((accuracy, confidence))
            total += len(inside) / len(confidences) * abs(accuracy - confidence)
    assert ece(evaluation(confidences, right), bins) == pytest.approx(total, rel=1e-12)


def test_sure_and_right_is_no_error_and_sure_and_wrong_is_all() -> None:
    assert ece(evaluation([1.0] * 4, [True] * 4)) == 0
    assert ece(evaluation([1.0000001] * 4, [False] * 4)) == pytest.approx(1)
    assert ece(evaluation([0.5] * 4, [True, True, False, False])) == 0
    assert reliability(evaluation([0.95], [True]), 2)[0].accuracy == 0  # nobody there


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 bin"):
        ece(evaluation([0.5], [True]), 0)
    with pytest.raises(ValueError, match="2 images, 0 confidences"):
        ece(evaluation([], [True, False]))
    with pytest.raises(ValueError, match="every image needs its confidence"):
        ece(evaluation([], []))
