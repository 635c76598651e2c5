"""Expected accuracy against a slow twin, and the damage predicted of models with widths from elsewhere."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from analysis.vit import Architecture, BlockWidths
from pruning.budget import Budget, HalfLoss, KnownChange, MergeLoss, Sensitivities, allocate
from pruning.budget.expected import expected_change, predicted_damage
from pruning.cut import with_merges
from tests.support.budgets import DEIT_TINY, synthetic

MERGES = (0, 0, 12, 12, 12, 12, 12, 12, 12, 12, 12, 0)


def best_falling(changes: list[float], weights: list[float]) -> list[float]:
    """The sequence nearest to these that starts at 0 and never rises, by trying all ways to pool them."""
    best: tuple[float, list[float]] = (np.inf, [])
    for cuts in itertools.product((False, True), repeat=len(changes)):
        groups = np.cumsum([0, *cuts])  # that of the dense model first
        values = [0.0]
        for group in range(1, groups[-1] + 1):
            own = groups[1:] == group
            values.append(float(np.average(np.array(changes)[own], weights=np.array(weights)[own])))
        fit = [values[group] for group in groups[1:]]
        if all(a >= b for a, b in itertools.pairwise([0.0, *fit])):
            error = sum(w * (a - b) ** 2 for w, a, b in zip(weights, fit, changes, strict=True))
            best = min(best, (error, fit))
    return best[1]


@pytest.mark.parametrize("seed", range(6))
def test_expected_changes_are_the_nearest_that_never_rise(seed: int) -> None:
    draw = np.random.default_rng(seed)
    damages = np.sort(draw.uniform(0.01, 1, 6)).tolist()
    changes = (-0.3 * np.array(damages) + draw.normal(0, 0.08, 6)).tolist()
    images = draw.integers(50, 2000, 6).tolist()
    tested = [KnownChange(*one) for one in zip(damages, changes, images, strict=True)]
    wanted = best_falling(changes, images)
    for damage, change in zip(damages, wanted, strict=True):
        assert expected_change(tested[::-1], damage) == pytest.approx(change, abs=1e-6)
    between = (damages[2] + damages[3]) / 2
    assert expected_change(tested, between) == pytest.approx((wanted[2] + wanted[3]) / 2, abs=1e-6)


def test_nothing_is_expected_beyond_what_was_tested() -> None:
    tested = [KnownChange(0.1, -0.02, 100), KnownChange(0.4, -0.2, 100)]
    assert expected_change(tested, 0.0) == 0
    assert expected_change(tested, 0.05) == pytest.approx(-0.01)
    assert expected_change(tested, 0.41) is None and expected_change([], 0.0) is None


def measured(arch: Architecture) -> Sensitivities:
    return replace(synthetic(arch), tokens=(MergeLoss(MERGES, 0.25),), halves=(HalfLoss(3, 0, 0.5),))


def test_the_damage_of_a_budget_is_predicted_again_from_its_widths() -> None:
    found = synthetic(DEIT_TINY)
    chosen = allocate(DEIT_TINY, found, Budget(gmacs=0.8))
    assert predicted_damage(DEIT_TINY, chosen.arch, found) == pytest.approx(chosen.loss)


def test_merging_fewer_tokens_than_a_schedule_counts_as_much() -> None:
    found, some = measured(DEIT_TINY), tuple(count // 2 for count in MERGES)
    assert predicted_damage(DEIT_TINY, with_merges(DEIT_TINY, some), found) == pytest.approx(0.25)
    more = tuple(count + 1 if count else 0 for count in MERGES)
    assert predicted_damage(DEIT_TINY, with_merges(DEIT_TINY, more), found) is None
    assert predicted_damage(with_merges(DEIT_TINY, some), with_merges(DEIT_TINY, some), found) == 0


@pytest.mark.parametrize(
    ("block", "widths", "damage"),
    [
        (3, BlockWidths(0, 0, 0, 768), 0.5),
        (4, BlockWidths(0, 0, 0, 768), None),  # this half was not measured
        (3, BlockWidths(2, 64, 64, 768), None),  # a head less
        (3, BlockWidths(3, 1, 64, 768), None),  # narrower than was measured
    ],
)
def test_what_was_not_measured_has_no_prediction(
    block: int, widths: BlockWidths, damage: float | None
) -> None:
    blocks = list(DEIT_TINY.blocks)
    blocks[block] = widths
    arch = replace(DEIT_TINY, blocks=tuple(blocks))
    assert predicted_damage(DEIT_TINY, arch, measured(DEIT_TINY)) == damage
    assert predicted_damage(DEIT_TINY, replace(DEIT_TINY, embed_dim=96), synthetic(DEIT_TINY)) is None
