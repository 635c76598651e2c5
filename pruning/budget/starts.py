"""What a budget may begin with: the model with merged tokens and without halves of blocks, before any width.

The price of a width depends on how many tokens a block is given, so tokens and widths do not add up. Every
schedule of merging that was measured, with the first few halves of blocks left out, is therefore a start of
its own: widths are priced and solved for what it leaves of the budget, and the damage is the sum [ours].
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from analysis.measure import cost
from analysis.vit import Architecture
from pruning.budget.curves import HalfLoss, Sensitivities
from pruning.cut import merges_of, unmerged, with_merges, without_halves

_HALVES = 6  # left out at most


@dataclass(frozen=True)
class Start:
    """An architecture of dense widths, and the predicted divergence of its merging and missing halves."""

    arch: Architecture
    loss: float


def starts(
    dense: Architecture, sensitivities: Sensitivities, kind: str, tokens: bool, depth: bool
) -> tuple[Start, ...]:
    """All starts for a budget of this kind, in rising order of their price.

    Merging saves no parameters. A start that is both dearer and worse than another is left out.
    """
    schedules = [(merges_of(dense), 0.0)]
    if tokens and kind != "params":
        schedules = [(merges_of(unmerged(dense)), 0.0)]
        schedules += [(one.merges, one.kl) for one in sensitivities.tokens if len(one.merges) == dense.depth]
    halves = sensitivities.halves if depth else ()
    found = [
        start for merges, kl in schedules for start in _shallower(_merging(dense, merges), kl, halves, kind)
    ]
    best, least = [], float("inf")
    for start in sorted(found, key=lambda one: (_price(one.arch, kind), one.loss)):
        if start.loss < least:
            best.append(start)
            least = start.loss
    return tuple(best)


def _merging(dense: Architecture, merges: tuple[int, ...]) -> Architecture:
    """The model with a schedule, as far as its blocks can."""
    able = [count if widths.heads else 0 for count, widths in zip(merges, dense.blocks, strict=True)]
    if dense.skip_unread:
        able[-1] = 0
    return with_merges(dense, tuple(able))


def _shallower(arch: Architecture, loss: float, halves: tuple[HalfLoss, ...], kind: str) -> Iterator[Start]:
    """The architecture, and without one half after another, in the order of damage for what each saves."""
    yield Start(arch, loss)
    whole = _price(arch, kind)

    def rate(one: HalfLoss) -> float:
        saved = whole - _price(without_halves(arch, [(one.block, one.half)]), kind)
        return one.kl / saved if saved > 0 else float("inf")

    for one in sorted((one for one in halves if _has(arch, one)), key=rate)[:_HALVES]:
        arch, loss = without_halves(arch, [(one.block, one.half)]), loss + one.kl
        yield Start(arch, loss)


def _price(arch: Architecture, kind: str) -> int:
    """Parameters, or MACs of an image, which milliseconds are taken to go with where starts are compared."""
    return cost(arch).params if kind == "params" else cost(arch).macs


def _has(arch: Architecture, one: HalfLoss) -> bool:
    if one.block >= arch.depth:
        return False
    widths = arch.blocks[one.block]
    return bool(widths.mlp if one.half else widths.heads)
