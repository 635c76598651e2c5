"""Plans: which parts of a dense model are kept, as data."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

from analysis.formats import Checked, Stored
from analysis.vit import Architecture, BlockWidths

Indices = tuple[int, ...]
QK_WHOLE = "queries and keys of a model with qk-norm stay whole: leave their ratio (qk) at 0"


@dataclass(frozen=True)
class BlockPlan(Checked):
    """The parts of one block that are kept, as indices into the dense block.

    `heads` are the kept heads; `qk` and `v` have, for each of them in that order, the kept query-key
    pairs and value neurons; `mlp` are the kept MLP neurons. All heads of a block keep the same number
    of pairs and the same number of value neurons. A half without heads or without neurons is absent.

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
        require_indices("heads", self.heads, least=0)
        require_indices("mlp", self.mlp, least=0)
        for name, per_head in (("qk", self.qk), ("v", self.v)):
            if len(per_head) != len(self.heads):
                raise ValueError(
                    f"{name} needs one list for each of the {len(self.heads)} kept heads, got {len(per_head)}"
                )
            for kept in per_head:
                require_indices(name, kept)
            if len({len(kept) for kept in per_head}) > 1:
                raise ValueError(f"every head of a block must keep the same number of {name} channels")

    @property
    def widths(self) -> BlockWidths:
        """Widths of the block after the cut, without the tokens that it merges."""
        qk, v = (len(kept[0]) if kept else 0 for kept in (self.qk, self.v))
        return BlockWidths(len(self.heads), qk, v, len(self.mlp))


@dataclass(frozen=True)
class Plan(Stored):
    """The kept parts of a dense model: channels of the residual stream, and a `BlockPlan` per block."""

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
        """The architecture of `dense` after the cut.

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
            require_whole_pairs(dense, block.qk, widths.qk)
        pairs = zip(self.blocks, dense.blocks, strict=True)
        blocks = (replace(kept.widths, merge=whole.merge if kept.heads else 0) for kept, whole in pairs)
        return replace(dense, embed_dim=len(self.embed), blocks=tuple(blocks))


def require_whole_pairs(dense: Architecture, kept: tuple[Indices, ...], width: int) -> None:
    """Check that query-key pairs are kept as the model can: all with qk-norm, plane by plane with rope.

    Raises:
        ValueError: they are not.
    """
    if dense.qk_norm and any(len(one) < width for one in kept):
        raise ValueError(QK_WHOLE)
    planes = [tuple(channel ^ 1 for channel in one) for one in kept]  # the other channel of each one's plane
    if dense.rope and any(set(one) != set(others) for one, others in zip(kept, planes, strict=True)):
        raise ValueError("with rotary positions the query-key pairs 2p and 2p + 1 stay or go together")


def within_heads(heads: Plan, rest: Plan) -> Plan:
    """Combine two plans: `heads` removes only whole heads, `rest` is a plan for the model that remains.

    Raises:
        ValueError: `rest` was made for more heads than remain.
    """
    blocks = []
    for first, second in zip(heads.blocks, rest.blocks, strict=True):
        if max(second.heads, default=-1) >= len(first.heads):
            raise ValueError(
                f"the second plan must be for the {len(first.heads)} heads that the first one keeps, "
                f"got {second.heads}"
            )
        blocks.append(replace(second, heads=tuple(first.heads[head] for head in second.heads)))
    return Plan(rest.embed, tuple(blocks))


def kept_heads(plan: Plan | None, dense: Architecture, small: Architecture) -> tuple[Indices | None, ...]:
    """Per block, the indices of the smaller model's heads in the dense model.

    Without a plan they are known only for blocks in which no head was removed, and None for the others.
    """
    if plan is not None:
        return tuple(block.heads for block in plan.blocks)
    pairs = zip(dense.blocks, small.blocks, strict=True)
    return tuple(tuple(range(a.heads)) if a.heads == b.heads else None for a, b in pairs)


def require_indices(name: str, kept: Indices, least: int = 1) -> None:
    """Check that there are at least so many indices, none negative, and strictly increasing.

    Raises:
        ValueError: they are not.
    """
    if len(kept) < least:
        raise ValueError(f"a plan must keep at least one index of {name}, got none")
    if min(kept, default=0) < 0:
        raise ValueError(f"{name} must be whole numbers of at least 0")
    if any(first >= second for first, second in pairwise(kept)):
        raise ValueError(f"{name} must be in increasing order without repeats")


def _require_within(name: str, kept: Indices, width: int) -> None:
    if max(kept, default=-1) >= width:
        raise ValueError(
            f"this plan keeps {name} index {kept[-1]}, but the model has only {width}: it was made "
            "for another architecture"
        )
