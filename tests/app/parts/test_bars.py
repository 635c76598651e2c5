"""Bars that the browser draws itself: their heights, their numbers in words, their scale."""

from __future__ import annotations

import re

import pytest

from analysis.measure.cost import cost
from analysis.models.load import load
from app.parts import bars


@pytest.mark.parametrize("quantity", ["macs", "params"])
def test_every_bar_is_as_high_as_its_number(quantity: str) -> None:
    total = cost(load("demo").model.arch)
    unit, scale = bars.UNITS[quantity]
    drawn = bars.block_costs(total, quantity)
    parts = [
        total.stem,
        *(part for block in total.blocks for part in (block.attention, block.mlp)),
        total.head,
    ]
    values = [getattr(part, quantity) / scale for part in parts]
    tips = re.findall(r'data-tip="[^:]*: ([0-9,.]+) ([^"]*)"', drawn)
    assert [number for number, _ in tips] == [f"{value:,.1f}" for value in values]
    assert {said for _, said in tips} == {unit}
    shares = [float(share) for share in re.findall(r"<b style=.height: ([0-9.]+)%", drawn)]
    top = float(re.findall(r"<span>([0-9,.]+)</span></i>", drawn)[-1].replace(",", ""))
    assert shares == pytest.approx([100 * value / top for value in values], abs=0.006)
    assert max(sum(shares[i : i + 2]) for i in range(1, len(shares) - 1, 2)) <= 100


def test_names_are_text() -> None:
    drawn = bars.stacked([bars.Column('"<x>', (("MLP", 1.0),))], "units", "block")
    assert "<x>" not in drawn and "&quot;&lt;x&gt;" in drawn


@pytest.mark.parametrize(
    ("top", "expected"),
    [
        (30.1, [0, 10, 20, 30, 40]),
        (400.0, [0, 100, 200, 300, 400]),
        (1234.0, [0, 500, 1000, 1500]),
        (0.0, [0, 1]),
    ],
)
def test_a_scale_has_round_numbers(top: float, expected: list[float]) -> None:
    assert bars.ticks(top) == pytest.approx(expected)
