"""Arrange values of heads by block, or as a padded grid if blocks have different numbers of heads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")
U = TypeVar("U")


def by_block(row: Sequence[T], counts: Sequence[int]) -> list[list[T]]:
    """Split the values of all heads, given block after block, into one list per block.

    Raises:
        ValueError: the number of values is not the number of heads.
    """
    if len(row) != sum(counts):
        raise ValueError(f"there must be one value for each of {sum(counts)} heads, got {len(row)}")
    ends = [sum(counts[: block + 1]) for block in range(len(counts))]
    return [list(row[end - count : end]) for end, count in zip(ends, counts, strict=True)]


def head_grid(blocks: Sequence[Sequence[T]], missing: U) -> list[list[T | U]]:
    """Arrange the values of each block's heads as a grid: a row per head index, a column per block.

    It has as many rows as the block with the most heads; blocks with fewer are padded with `missing`.
    """
    rows = max(map(len, blocks), default=0)
    return [[block[head] if head < len(block) else missing for block in blocks] for head in range(rows)]
