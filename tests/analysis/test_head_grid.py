"""Grids of heads: padded where blocks have fewer, and nothing is lost or moved."""

from __future__ import annotations

import pytest

from analysis.head_grid import by_block, head_grid


def test_a_row_of_heads_falls_into_blocks() -> None:
    assert by_block("abcdef", (3, 1, 2)) == [["a", "b", "c"], ["d"], ["e", "f"]]
    for values in ("abcde", "abcdefg"):
        with pytest.raises(ValueError, match=f"one value for each of 6 heads, got {len(values)}"):
            by_block(values, (3, 1, 2))


def test_a_grid_has_blocks_as_columns_and_is_padded() -> None:
    blocks = [["a", "b", "c"], ["d"], ["e", "f"]]
    assert head_grid(blocks, None) == [["a", "d", "e"], ["b", None, "f"], ["c", None, None]]
    assert head_grid([], None) == []
    for block, heads in enumerate(blocks):
        assert [row[block] for row in head_grid(blocks, None)][: len(heads)] == heads
