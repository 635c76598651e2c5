"""Paired changes of accuracy, against enumeration of all outcomes and a search for the likeliest shares."""

from __future__ import annotations

import itertools
import math
from functools import cache

import pytest

from analysis.measure.evaluate import Evaluation
from analysis.measure.paired import PairedChange, change_of_counts, paired_change


def evaluation(predictions: tuple[int, ...], labels: tuple[int, ...]) -> Evaluation:
    right = sum(p == q for p, q in zip(predictions, labels, strict=True)) / len(labels)
    return Evaluation(right, right, 0, 1, len(labels), 0.0, predictions, labels, (1.0,) * len(labels))


def test_the_example_of_650_photos() -> None:
    found = change_of_counts(40, 12, 650)
    assert found.change == -28 / 650
    assert (found.low, found.high) == pytest.approx((-0.0663, -0.0222), abs=5e-5)  # Tango's interval
    assert (found.low, found.high) == pytest.approx((-0.065, -0.022), abs=1.5e-3)  # by other methods
    assert found.p == pytest.approx(1.03e-4, rel=0.01)
    assert found.beyond_chance


def test_published_example() -> None:
    """Cavo et al. 2012, with what the R package contingencytables gives for Tango and McNemar's z (2.132)."""
    found = change_of_counts(16, 6, 161)
    shown = [round(value, 4) for value in (found.change, found.low, found.high)]
    assert shown == [-0.0621, -0.1240, -0.0054]
    assert found.p == pytest.approx(0.033006, abs=5e-7)
    assert found.beyond_chance  # where McNemar's exact test gives 0.052 and would contradict the interval


def test_counts_come_from_the_images() -> None:
    labels = (0, 1, 2, 3, 4, 5)
    first, second = evaluation((0, 1, 2, 9, 9, 8), labels), evaluation((0, 9, 9, 3, 9, 7), labels)
    found = paired_change(first, second)
    assert (found.lost, found.gained, found.images) == (2, 1, 6)
    assert found.change == pytest.approx(second.top1 - first.top1)
    assert paired_change(second, first) == PairedChange(
        -found.change, -found.high, -found.low, found.p, found.gained, found.lost, found.images
    )


def test_models_right_on_the_same_images_still_have_an_interval() -> None:
    """By hand: the statistic of a change d is d n / sqrt(n d (1 - d)), which is z at z^2 / (n + z^2)."""
    found = change_of_counts(0, 0, 650)
    edge = 1.959964**2 / (650 + 1.959964**2)
    assert (found.change, found.p) == (0, 1)
    assert (found.low, found.high) == pytest.approx((-edge, edge))
    assert not found.beyond_chance


def test_ends() -> None:
    assert change_of_counts(0, 5, 5).high == 1 and change_of_counts(5, 0, 5).low == -1
    for lost, gained, images in ((0, 0, 1), (1, 0, 1), (0, 1, 1), (3, 4, 7), (1, 1, 2)):
        found = change_of_counts(lost, gained, images)
        assert -1 <= found.low <= found.change <= found.high <= 1


@pytest.mark.parametrize("images", [3, 12, 40])
def test_interval_and_p_are_one_decision(images: int) -> None:
    """The interval excludes 0 exactly where McNemar's statistic, written from its formula, is significant."""
    for lost, gained in itertools.product(range(images + 1), repeat=2):
        if lost + gained <= images:
            found = change_of_counts(lost, gained, images)
            square = (lost - gained) ** 2 / max(lost + gained, 1)
            assert found.p == pytest.approx(math.erfc(math.sqrt(square / 2)))
            excludes = found.low > 0 or found.high < 0
            assert excludes == (square > 3.8415) == (found.p < 0.05) == found.beyond_chance, (lost, gained)


def test_p_of_many_images() -> None:
    assert change_of_counts(30_000, 29_000, 60_000).p == pytest.approx(
        math.erfc(1000 / math.sqrt(59_000) / math.sqrt(2))
    )
    assert change_of_counts(5000, 0, 10_000).p == pytest.approx(0, abs=1e-300)


def likeliest(lost: int, gained: int, images: int, change: float) -> float:
    """Share of lost images of the highest likelihood given the change, by thirds: it has one maximum."""
    low, high = max(0.0, -change), (1 - change) / 2

    def likelihood(share: float) -> float:
        shares = ((lost, share), (gained, share + change), (images - lost - gained, 1 - 2 * share - change))
        return sum(count * math.log(max(one, 1e-300)) for count, one in shares if count)

    for _ in range(200):
        third = (high - low) / 3
        if likelihood(low + third) < likelihood(high - third):
            low += third
        else:
            high -= third
    return (low + high) / 2


@pytest.mark.parametrize(
    "counts", [(40, 12, 650), (0, 0, 30), (0, 5, 40), (3, 1, 12), (2, 2, 9), (9, 20, 30), (1, 0, 50)]
)
def test_interval_against_a_search(counts: tuple[int, int, int]) -> None:
    """Its ends are where the score statistic reaches z, and nothing between them is beyond it."""
    lost, gained, images = counts
    found = change_of_counts(*counts)

    def statistic(change: float) -> float:
        share = likeliest(lost, gained, images, change)
        variance = 2 * share + change - change * change
        return abs(gained - lost - images * change) / math.sqrt(images * variance)

    for end in (found.low, found.high):
        assert statistic(end) == pytest.approx(1.959964, rel=1e-4)
    width = found.high - found.low
    for place in range(1, 20):
        assert statistic(found.low + width * place / 20) < 1.959964
    assert statistic(found.low - width / 50) > 1.959964 < statistic(found.high + width / 50)


interval = cache(change_of_counts)


@pytest.mark.parametrize("images", [20, 60])
@pytest.mark.parametrize(
    ("lost", "gained"), [(0.05, 0.05), (0.1, 0.1), (0.02, 0.02), (0.15, 0.05), (0.3, 0.1), (0.06, 0.02)]
)
def test_coverage_and_false_alarms(images: int, lost: float, gained: float) -> None:
    """Over all outcomes, weighted by their probability."""
    held = alarms = 0.0
    for a in range(images + 1):
        for b in range(images + 1 - a):
            rest = images - a - b
            ways = math.comb(images, a) * math.comb(images - a, b)
            weight = ways * lost**a * gained**b * (1 - lost - gained) ** rest
            if weight < 1e-9:
                continue
            found = interval(a, b, images)
            held += weight * (found.low <= gained - lost <= found.high)
            alarms += weight * found.beyond_chance
    assert 0.93 < held <= 1
    assert lost != gained or alarms <= 0.055


@pytest.mark.parametrize("counts", [(0, 0, 0), (-1, 0, 5), (3, 3, 5)])
def test_impossible_counts_are_refused(counts: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="a paired change needs images"):
        change_of_counts(*counts)


def test_other_images_are_refused() -> None:
    with pytest.raises(ValueError, match="the same images in the same order"):
        paired_change(evaluation((0, 1), (0, 1)), evaluation((0, 1), (1, 0)))
