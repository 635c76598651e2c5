"""What blocks save alone, corrected by the whole models that a kit times beside them [ours].

A block in a model is not as fast as the same block alone, whose weights and tokens stay in the cache, and one
structure is off by more than another: query-key pairs by two fifths where neurons are off by a twentieth
(DeiT-Tiny at batch 8 in ONNX Runtime). So each structure has a model in which nothing else is smaller.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from analysis.vit import Architecture, BlockWidths
from pruning.budget import BUDGETED_STRUCTURES, LatencyTable, saved_by_blocks

_WITHIN = (0.25, 4.0)  # what a structure's savings are multiplied by: more than this is noise
_LEAST = 0.01  # of its dense block's time that a smaller one takes

Timed = tuple[Architecture, float]  # a whole model, and the part of the dense model's time that it takes


def corrected(table: LatencyTable, dense: Architecture, models: Sequence[Timed]) -> LatencyTable:
    """The same table with its savings as far off as those of smaller models, and what they save in `truth`.

    A model that is smaller in one respect corrects all savings of that kind. What all models save by the sum
    of blocks is then set beside what they save in truth.
    """
    priced = [one for one in models if _is_priced(one[0], dense, bool(table.tokens))]
    table = _multiplied(table, _factors(table, dense, priced))
    pairs = {}
    for arch, share in priced:
        said, true = saved_by_blocks(dense, arch, table), table.model * (1 - share)
        if said is not None and said > 0 and true > 0:
            pairs[said] = true
    return replace(table, truth=tuple(sorted(pairs.items())))


def _is_priced(arch: Architecture, dense: Architecture, tokens: bool) -> bool:
    """Whether a model is the dense one with less in it, which the sum of blocks can price.

    It can price what merges only where blocks were timed with fewer `tokens`.
    """
    return arch.depth == dense.depth and all(
        mine.heads in (0, other.heads)
        and (tokens or mine.merge == other.merge)
        and all(getattr(mine, name) <= getattr(other, name) for name in BUDGETED_STRUCTURES)
        for mine, other in zip(arch.blocks, dense.blocks, strict=True)
    )


def _factors(table: LatencyTable, dense: Architecture, models: Sequence[Timed]) -> dict[str, float]:
    """By what kind of change: what models save in truth, as a multiple of what their blocks save."""
    found: dict[str, tuple[float, float]] = {}
    for arch, share in models:
        kinds = {kind for pair in zip(dense.blocks, arch.blocks, strict=True) for kind in _changes(*pair)}
        said = saved_by_blocks(dense, arch, table)
        if len(kinds) == 1 and said is not None:
            (kind,) = kinds
            merging = table.merging * sum(bool(block.merge) for block in arch.blocks) * (kind == "tokens")
            by_blocks, in_truth = found.get(kind, (0.0, 0.0))
            true = table.model * (1 - share)
            found[kind] = by_blocks + said + merging, in_truth + true + merging
    low, high = _WITHIN
    return {kind: min(max(true / said, low), high) for kind, (said, true) in found.items() if said > 0}


def _changes(whole: BlockWidths, left: BlockWidths) -> set[str]:
    """In which respects a block is smaller than the dense one."""
    gone = {"no attention"} if whole.heads and not left.heads else set()
    gone |= {"no MLP"} if whole.mlp and not left.mlp else set()
    narrow = {name for name in BUDGETED_STRUCTURES if 0 < getattr(left, name) < getattr(whole, name)}
    return gone | narrow | ({"tokens"} if left.heads and left.merge != whole.merge else set())


def _multiplied(table: LatencyTable, factors: Mapping[str, float]) -> LatencyTable:
    """The table with the savings of each kind multiplied."""

    def left(share: float, factor: float) -> float:
        return max(1 - factor * (1 - share), _LEAST)

    shares = {}
    for (whole, narrow), share in table.shares.items():
        kind = next(iter(_changes(whole, narrow)), "")
        shares[whole, narrow] = left(share, factors.get(kind, 1.0)) if kind else share
    return replace(table, shares=shares, by_tokens=factors.get("tokens", 1.0))
