"""Values of heads as grids: blocks may have different numbers of heads, and a grid has them padded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")
U = TypeVar("U")


def by_block(row: Sequence[T], counts: Sequence[int]) -> list[list[T]]:
    """Values of all heads in a row, block after block, as a list for each block of so many heads.

    Raises:
        ValueError: another number of values than heads.
    """
    if len(row) != sum(counts):
        raise ValueError(f"{sum(counts)} heads need as many values, got {len(row)}")
    ends = [sum(counts[: block + 1]) for block in range(len(counts))]
    return [list(row[end - count : end]) for end, count in zip(ends, counts, strict=True)]


def head_grid(blocks: Sequence[Sequence[T]], missing: U) -> list[list[T | U]]:
    """Values of each block's heads as a grid: a row for each head, a column for each block.

    It has as many rows as the block with most heads; `missing` stands where a block has fewer.
    """
    rows = max(map(len, blocks), default=0)
    return [[block[head] if head < len(block) else missing for block in blocks] for head in range(rows)]
