"""The decision as data: which parts of a dense model stay."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

from analysis.formats import Checked, Stored
from analysis.vit import Architecture, BlockWidths

Indices = tuple[int, ...]


@dataclass(frozen=True)
class BlockPlan(Checked):
    """What stays of one block, as indices into the dense block.

    `heads` are the heads that stay; `qk` and `v` hold, for each of them in that order, the
    query-key pairs and value neurons that stay; `mlp` the MLP neurons. Within a block every
    head keeps the same number of pairs, and the same number of value neurons.

    Raises:
        ValueError: a value of another type, nothing left of a structure, indices unsorted or double, or
            uneven heads.
    """

    heads: Indices
    qk: tuple[Indices, ...]
    v: tuple[Indices, ...]
    mlp: Indices

    def __post_init__(self) -> None:
        super().__post_init__()
        require_indices("heads", self.heads)
        require_indices("mlp", self.mlp)
        for name, per_head in (("qk", self.qk), ("v", self.v)):
            if len(per_head) != len(self.heads):
                raise ValueError(
                    f"{name} needs one list for each of the {len(self.heads)} heads that stay, "
                    f"got {len(per_head)}"
                )
            for kept in per_head:
                require_indices(name, kept)
            if len({len(kept) for kept in per_head}) > 1:
                raise ValueError(f"every head of a block must keep the same number of {name} channels")

    @property
    def widths(self) -> BlockWidths:
        """Widths of the block that remains."""
        return BlockWidths(len(self.heads), len(self.qk[0]), len(self.v[0]), len(self.mlp))


@dataclass(frozen=True)
class Plan(Stored):
    """What stays of a dense model: channels of the residual stream, and a `BlockPlan` per block."""

    embed: Indices
    blocks: tuple[BlockPlan, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        require_indices("embed", self.embed)

    @classmethod
    def keep_all(cls, dense: Architecture) -> Plan:
        """The plan that removes nothing."""
        return cls(
            embed=tuple(range(dense.embed_dim)),
            blocks=tuple(
                BlockPlan(
                    heads=tuple(range(widths.heads)),
                    qk=(tuple(range(widths.qk)),) * widths.heads,
                    v=(tuple(range(widths.v)),) * widths.heads,
                    mlp=tuple(range(widths.mlp)),
                )
                for widths in dense.blocks
            ),
        )

    def architecture(self, dense: Architecture) -> Architecture:
        """The architecture that remains of `dense`.

        Raises:
            ValueError: the plan was made for another architecture.
        """
        if len(self.blocks) != dense.depth:
            raise ValueError(f"this plan is for {len(self.blocks)} blocks, the model has {dense.depth}")
        _require_within("embed", self.embed, dense.embed_dim)
        for block, widths in zip(self.blocks, dense.blocks, strict=True):
            _require_within("heads", block.heads, widths.heads)
            _require_within("mlp", block.mlp, widths.mlp)
            for qk, v in zip(block.qk, block.v, strict=True):
                _require_within("qk", qk, widths.qk)
                _require_within("v", v, widths.v)
        return replace(dense, embed_dim=len(self.embed), blocks=tuple(block.widths for block in self.blocks))


def within_heads(heads: Plan, rest: Plan) -> Plan:
    """One plan from two: `heads` removes whole heads and nothing else, `rest` was made for what remains.

    Raises:
        ValueError: `rest` was made for other heads.
    """
    blocks = []
    for first, second in zip(heads.blocks, rest.blocks, strict=True):
        if second.heads[-1] >= len(first.heads):
            raise ValueError(
                f"the second plan must be for the {len(first.heads)} heads that the first one leaves, "
                f"got {second.heads}"
            )
        blocks.append(replace(second, heads=tuple(first.heads[head] for head in second.heads)))
    return Plan(rest.embed, tuple(blocks))


def kept_heads(plan: Plan | None, dense: Architecture, small: Architecture) -> tuple[Indices | None, ...]:
    """Per block, which heads of the dense model those of the smaller one are.

    Without a plan that is known only of blocks in which no head was removed; None elsewhere.
    """
    if plan is not None:
        return tuple(block.heads for block in plan.blocks)
    pairs = zip(dense.blocks, small.blocks, strict=True)
    return tuple(tuple(range(a.heads)) if a.heads == b.heads else None for a, b in pairs)


def require_indices(name: str, kept: Indices) -> None:
    """Check that something is kept, each once and in rising order.

    Raises:
        ValueError: it is not so.
    """
    if not kept:
        raise ValueError(f"a plan must keep something of {name}, got nothing")
    if min(kept) < 0:
        raise ValueError(f"{name} must be whole numbers of at least 0")
    if any(first >= second for first, second in pairwise(kept)):
        raise ValueError(f"{name} must be in rising order without repeats")


def _require_within(name: str, kept: Indices, width: int) -> None:
    if kept[-1] >= width:
        raise ValueError(
            f"this plan keeps {name} index {kept[-1]}, but the model has only {width}: it was made "
            "for another architecture"
        )
