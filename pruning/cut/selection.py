"""Scores of the parts of a model, and the `Plan` that keeps the highest ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from analysis.vit import Architecture
from pruning.cut.head_locks import HeadLocks
from pruning.cut.plan import BlockPlan, Indices, Plan


@dataclass(frozen=True)
class Scores:
    """Importance of every part of a model, per block; the lowest scores are removed first."""

    qk: tuple[Float[Tensor, "H Dqk"], ...]
    v: tuple[Float[Tensor, "H Dv"], ...]
    mlp: tuple[Float[Tensor, " F"], ...]
    heads: tuple[Float[Tensor, " H"], ...]
    embed: Float[Tensor, " E"]


def heads_only(arch: Architecture, heads: Sequence[Float[Tensor, " H"]]) -> Scores:
    """Scores that rank only heads; all other parts score 0."""
    return Scores(
        qk=tuple(torch.zeros(widths.heads, widths.qk) for widths in arch.blocks),
        v=tuple(torch.zeros(widths.heads, widths.v) for widths in arch.blocks),
        mlp=tuple(torch.zeros(widths.mlp) for widths in arch.blocks),
        heads=tuple(heads),
        embed=torch.zeros(arch.embed_dim),
    )


def select(scores: Scores, dense: Architecture, target: Architecture, locks: HeadLocks = HeadLocks()) -> Plan:
    """The plan that keeps the parts with the highest scores, with the widths of `target`.

    Heads are selected first, subject to the locks; then pairs and value neurons inside each kept head. With
    rotary positions the two pairs of a plane stay or go together, by the sum of their scores.
    Of equal scores the lower index is kept, so the same scores always give the same plan.

    Raises:
        ValueError: scores are not finite, or the target is wider than the dense model.
    """
    ranked, blocks = locks.order(scores.heads) if locks else scores.heads, []
    for index, (before, after) in enumerate(zip(dense.blocks, target.blocks, strict=True)):
        heads = _top(ranked[index], after.heads, before.heads)
        blocks.append(
            BlockPlan(
                heads=heads,
                qk=tuple(_pairs(scores.qk[index][head], after.qk, before.qk, dense.rope) for head in heads),
                v=tuple(_top(scores.v[index][head], after.v, before.v) for head in heads),
                mlp=_top(scores.mlp[index], after.mlp, before.mlp),
            )
        )
    return Plan(_top(scores.embed, target.embed_dim, dense.embed_dim), tuple(blocks))


def _pairs(scores: Tensor, count: int, width: int, in_planes: bool) -> Indices:
    if not in_planes:
        return _top(scores, count, width)
    planes = _top(scores.view(-1, 2).sum(dim=-1), count // 2, width // 2)
    return tuple(channel for plane in planes for channel in (2 * plane, 2 * plane + 1))


def _top(scores: Tensor, count: int, width: int) -> Indices:
    if scores.shape != (width,):
        raise ValueError(f"expected {width} scores, got {tuple(scores.shape)}")
    if count > width:
        raise ValueError(f"cannot keep {count} of {width}")
    if not bool(scores.isfinite().all()):
        raise ValueError("scores must be finite; check the model's weights for NaN")
    order = scores.argsort(descending=True, stable=True)
    return tuple(sorted(order[:count].tolist()))
