from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from analysis.measure.evaluate import agreement, evaluate, wilson


class Table(nn.Module):
    """A 'model' whose logits are the images themselves."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images


def batches(logits: torch.Tensor, labels: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return list(zip(logits.split(3), labels.split(3), strict=True))


def test_counts_against_loops() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, labels = (
        torch.randn(40, 12, generator=generator),
        torch.randint(0, 12, (40,), generator=generator),
    )
    result = evaluate(Table(), batches(logits, labels))
    first = five = 0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        order = sorted(range(12), key=lambda i: -row[i])
        first += order[0] == label
        five += label in order[:5]
    assert (result.top1, result.top5, result.images) == (first / 40, five / 40, 40)
    assert result.predictions == tuple(logits.argmax(1).tolist())
    assert result.labels == tuple(labels.tolist())
    assert result.confidences == pytest.approx(logits.softmax(1).amax(1).tolist())
    assert 0 < five < 40


def test_ties_are_broken_by_index_and_never_in_favour_of_the_label() -> None:
    logits, labels = torch.zeros(12, 12), torch.arange(12)
    result = evaluate(Table(), batches(logits, labels))
    assert result.predictions == (0,) * 12
    assert (result.top1, result.top5) == (1 / 12, 5 / 12)


def test_classes_that_softmax_cannot_tell_apart_are_ranked_by_their_logits() -> None:
    logits = torch.tensor([[200.0, 50.0, 49.0, 48.0, 47.0, 46.0, 45.0]])  # all but the first underflow to 0
    assert evaluate(Table(), [(logits, torch.tensor([6]))]).top5 == 0
    assert evaluate(Table(), [(logits, torch.tensor([4]))]).top5 == 1


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_logits_that_are_not_finite_are_refused(bad: float) -> None:
    logits = torch.zeros(4, 12)
    logits[2, 3] = bad
    with pytest.raises(ValueError, match="the model's output is not finite"):
        evaluate(Table(), batches(logits, torch.zeros(4, dtype=torch.long)))


def test_wilson_solves_its_equation() -> None:
    """The bounds are the proportions p at which |share - p| = z sqrt(p (1 - p) / n)."""
    z = 1.959964
    for right, total in ((0, 7), (7, 7), (1, 2), (511, 650), (1940, 2000)):
        low, high = wilson(right, total)
        for bound in (low, high):
            assert abs(right / total - bound) == pytest.approx(
                z * math.sqrt(bound * (1 - bound) / total), abs=1e-9
            )
        assert 0 <= low <= right / total <= high <= 1


def test_wilson_holds_the_share_itself() -> None:
    for total in range(1, 200):
        for right in (0, 1, total - 1, total):
            low, high = wilson(right, total)
            assert 0 <= low <= right / total <= high <= 1, (right, total)


def test_wilson_published_example() -> None:
    low, high = wilson(81, 263)  # Newcombe 1998, table I
    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)


@pytest.mark.parametrize(("right", "total"), [(1, 0), (0, 0), (3, 2), (-1, 4)])
def test_impossible_counts_are_refused(right: int, total: int) -> None:
    with pytest.raises(ValueError, match="0 <= right <= total"):
        wilson(right, total)


def test_agreement_lists_flips() -> None:
    labels = torch.tensor([0, 1, 2, 0])
    first = evaluate(Table(), batches(torch.eye(3)[[0, 1, 1, 2]], labels))
    second = evaluate(Table(), batches(torch.eye(3)[[0, 2, 2, 1]], labels))
    both = agreement(first, second)
    assert (both.share, both.flips, both.lost, both.gained) == (0.25, (1, 2, 3), (1,), (2,))


def test_agreement_needs_the_same_images() -> None:
    first = evaluate(Table(), batches(torch.eye(3), torch.tensor([0, 1, 2])))
    second = evaluate(Table(), batches(torch.eye(3), torch.tensor([0, 1, 1])))
    with pytest.raises(ValueError, match="same images"):
        agreement(first, second)


def test_no_images_is_an_error() -> None:
    with pytest.raises(ValueError, match="no images to evaluate on"):
        evaluate(Table(), [])
