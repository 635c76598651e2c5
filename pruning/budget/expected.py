"""Expected accuracy: what tested models say about the predicted damage of others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from analysis.vit import Architecture, BlockWidths
from pruning.budget.curves import Sensitivities

_CERTAIN = 1e12  # images that weigh for the dense model, which differs from itself by nothing


class KnownChange(NamedTuple):
    """A smaller model that was tested: its predicted damage, its change of accuracy, on so many images."""

    damage: float
    change: float
    images: int


def expected_change(tested: Sequence[KnownChange], damage: float) -> float | None:
    """The change of accuracy that a predicted damage comes to, as a fraction [ours].

    It is 0 for the dense model and never rises with the damage: where tested models contradict that, the
    mean of their changes counts (isotonic regression, weighted by images). Between them it goes along a
    straight line of the damage, as both grow with the square of a small error. None beyond the greatest
    damage that was tested, of which nothing is known.
    """
    if not tested or damage > max(one.damage for one in tested):
        return None
    damages, changes = _falling(tested)
    return float(np.interp(damage, damages, changes))


def _falling(tested: Sequence[KnownChange]) -> tuple[list[float], list[float]]:
    """Damages, and the changes that fit the tested ones best among all that never rise."""
    points = [KnownChange(0.0, 0.0, 0), *sorted(tested)]
    pools: list[list[float]] = []  # mean change, weight, number of points
    for one in points:
        pools.append([one.change, one.images or _CERTAIN, 1])
        while len(pools) > 1 and pools[-1][0] >= pools[-2][0]:
            (change, weight, count), (other, more, others) = pools.pop(), pools.pop()
            mean = (change * weight + other * more) / (weight + more)
            pools.append([mean, weight + more, count + others])
    changes = [change for change, _, count in pools for _ in range(int(count))]
    return [one.damage for one in points], changes


def predicted_damage(dense: Architecture, arch: Architecture, found: Sensitivities) -> float | None:
    """What sensitivities predict of a smaller model, whatever chose its widths; None where they cannot.

    A budget may merge fewer tokens in the end than a measured schedule: that schedule's damage counts.
    """
    pairs = list(zip(arch.blocks, dense.blocks, strict=True))
    if arch.embed_dim != dense.embed_dim or any(one.heads not in (0, whole.heads) for one, whole in pairs):
        return None
    measured, merging = {(one.block, one.half) for one in found.halves}, _merging_damage(dense, arch, found)
    if merging is None or not _gone(pairs) <= measured:
        return None
    unmerged = replace(arch, blocks=tuple(replace(one, merge=0) for one in arch.blocks))
    try:
        return merging + found.loss(unmerged)
    except ValueError:  # narrower than was measured
        return None


def _merging_damage(dense: Architecture, arch: Architecture, found: Sensitivities) -> float | None:
    """The least damage of a measured schedule that merges as many tokens or more in every block."""
    merges, own = (tuple(block.merge for block in one.blocks) for one in (arch, dense))
    if merges == own:
        return 0.0
    enough = (one.kl for one in found.tokens if all(map(int.__ge__, one.merges, merges)))
    return min(enough, default=None)


def _gone(pairs: Sequence[tuple[BlockWidths, BlockWidths]]) -> set[tuple[int, int]]:
    """The halves of blocks, each by block and half, that only the dense model has."""
    return {
        (index, half)
        for index, (one, whole) in enumerate(pairs)
        for half, name in enumerate(("heads", "mlp"))
        if getattr(whole, name) and not getattr(one, name)
    }
