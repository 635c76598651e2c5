"""Grids of heads: each head has its colour, its number in words and its sign, and a block may have fewer."""

from __future__ import annotations

from dataclasses import replace

import pytest

from app.parts.picker import message
from app.views.heads.charts import MarkedHeads
from app.views.heads.grids import grid
from pruning.criteria import HEAD_MEASURES
from pruning.cut import HeadLocks

HEADS = ((0, 0), (0, 1), (0, 2), (1, 0))  # of two blocks, uneven
MARKED = MarkedHeads(HEADS, (0, 2), HeadLocks(keep=((0, 0),), remove=((1, 0),)))
VALUES = [0.1, 0.2, 0.3, 0.4]
BRIGHTEST, DARKEST = (0xFD, 0xE7, 0x25, 255), (0x44, 0x01, 0x54, 255)


@pytest.mark.parametrize("measure", ["snp", "entropy"])
def test_a_high_value_is_bright(measure: str) -> None:
    cells = grid(MARKED, measure, VALUES, 20, 2)
    assert cells.picture.size == (2 * 20 - 2, 3 * 20 - 2)
    assert cells.picture.getpixel((5, 5)) == DARKEST
    assert cells.picture.getpixel((25, 5)) == BRIGHTEST
    assert cells.picture.getpixel((25, 25)) == (0, 0, 0, 0)  # this block has one head
    assert cells.picture.getpixel((19, 5)) == (0, 0, 0, 0)  # between two heads


def test_a_low_value_is_bright_where_it_is_important(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(HEAD_MEASURES, "snp", replace(HEAD_MEASURES["snp"], important=-1))
    assert grid(MARKED, "snp", VALUES, 20, 2).picture.getpixel((5, 5)) == BRIGHTEST


def test_the_browser_is_told_the_numbers_and_the_locks() -> None:
    said = message(grid(MARKED, "entropy", VALUES, 20, 2), MARKED.chosen, "entropy of all heads")
    assert said["heights"] == [3, 1] and said["chosen"] == (0, 2)
    assert said["told"] == [["0.1 bits", "0.2 bits", "0.3 bits"], ["0.4 bits"]]
    assert said["marks"] == [["✓", "", ""], ["✕"]]
