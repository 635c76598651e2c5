from __future__ import annotations

import random

import pytest
import torch

from analysis.measure.confusion import PairChange, confusion, confusion_changes
from analysis.measure.evaluate import Evaluation


def evaluation(labels: list[int], predictions: list[int]) -> Evaluation:
    return Evaluation(0.0, 0.0, 0.0, 0.0, len(labels), 1.0, tuple(predictions), tuple(labels), ())


def sample(seed: int, classes: int = 5, count: int = 60) -> tuple[list[int], list[int], list[int]]:
    draw = random.Random(seed).randrange
    labels, first, second = ([draw(classes) for _ in range(count)] for _ in range(3))
    return labels, first, second


def test_matrix_against_loops() -> None:
    labels, predictions, _ = sample(0)
    expected = torch.zeros(5, 5, dtype=torch.int64)
    for label, predicted in zip(labels, predictions, strict=True):
        expected[label, predicted] += 1
    torch.testing.assert_close(confusion(evaluation(labels, predictions), 5), expected)


def test_changes_against_two_matrices() -> None:
    labels, first, second = sample(1)
    before, after = (confusion(evaluation(labels, p), 5) for p in (first, second))
    expected = {}
    for i in range(5):
        for j in range(5):
            if i != j and before[i, j] != after[i, j]:
                expected[i, j] = (int(before[i, j]), int(after[i, j]))
    found = confusion_changes(evaluation(labels, first), evaluation(labels, second))
    assert {(p.label, p.predicted): (p.before, p.after) for p in found} == expected
    assert [abs(p.change) for p in found] == sorted((abs(p.change) for p in found), reverse=True)


def test_what_grew_comes_before_what_shrank_as_much() -> None:
    before, after = evaluation([0, 1, 2, 2], [1, 0, 2, 2]), evaluation([0, 1, 2, 2], [0, 1, 0, 1])
    found = confusion_changes(before, after)
    assert found == (
        PairChange(2, 0, 0, 1),
        PairChange(2, 1, 0, 1),
        PairChange(0, 1, 1, 0),
        PairChange(1, 0, 1, 0),
    )
    assert [pair.change for pair in found] == [1, 1, -1, -1]
    assert confusion_changes(before, before) == ()


def test_other_images_or_classes_are_refused() -> None:
    with pytest.raises(ValueError, match="same images"):
        confusion_changes(evaluation([0], [0]), evaluation([1], [0]))
    with pytest.raises(ValueError, match="class 3, but there are only 3 classes"):
        confusion(evaluation([0, 1], [0, 3]), 3)
