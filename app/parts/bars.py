"""Bar charts in HTML: on the first page, loading Plotly's 4.7 MB would take longer than all the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from math import floor, log10

from analysis.measure import BlockCost, Cost, PartCost
from app.parts.charts import ATTENTION, MLP, OTHER

UNITS = {"params": ("thousand parameters", 1e3), "macs": ("million MACs per image", 1e6)}
_TINTS = {"attention": ATTENTION, "MLP": MLP, "patches and head": OTHER}


@dataclass(frozen=True)
class Column:
    """One stack of bars and the name below it; `parts` go from the bottom upwards."""

    name: str
    parts: tuple[tuple[str, float], ...]

    @property
    def height(self) -> float:
        return sum(value for _, value in self.parts)


def block_costs(cost: Cost, quantity: str) -> str:
    """Parameters or MACs as HTML: a stack for each block, and one for each part outside of the blocks."""
    unit, scale = UNITS[quantity]

    def read(part: PartCost | BlockCost) -> float:
        return float(getattr(part, quantity)) / scale

    blocks = [
        Column(str(i), (("attention", read(block.attention)), ("MLP", read(block.mlp))))
        for i, block in enumerate(cost.blocks)
    ]
    stem, head = (
        Column(name, (("patches and head", read(part)),))
        for name, part in (("stem", cost.stem), ("head", cost.head))
    )
    return stacked([stem, *blocks, head], unit, "block")


def stacked(columns: Sequence[Column], unit: str, below: str) -> str:
    """Stacks of bars on a common scale, as HTML; pointing at a bar shows its value in `unit`."""
    marks = ticks(max(column.height for column in columns))
    lines = "".join(f'<i style="bottom: {mark / marks[-1]:.2%}"><span>{mark:,g}</span></i>' for mark in marks)
    drawn = "".join(_column(column, marks[-1], unit, below) for column in columns)
    legend = "".join(f'<span style="--tint: {tint}">{name}</span>' for name, tint in _TINTS.items())
    return (
        f'<div class="bars" role="img" aria-label="{escape(_description(columns, unit, below))}">'
        f'<div class="bars-legend">{legend}</div><div class="bars-unit">{unit}</div>'
        f'<div class="bars-plot">{lines}{drawn}</div><div class="bars-below">{below}</div></div>'
    )


def _column(column: Column, top: float, unit: str, below: str) -> str:
    name = escape(column.name)
    where = f"{below} {name}" if name.isdigit() else name
    bars = "".join(
        f'<b style="height: {value / top:.2%}; background: {_TINTS[part]}" '
        f'data-tip="{where}, {part}: {value:,.1f} {unit}"></b>'
        for part, value in column.parts
    )
    return f'<div class="bars-column">{bars}<span>{name}</span></div>'


def _description(columns: Sequence[Column], unit: str, below: str) -> str:
    stacks = (
        f"{column.name}: " + ", ".join(f"{part} {value:,.1f}" for part, value in column.parts)
        for column in columns
    )
    return f"{unit} by {below}. " + "; ".join(stacks)


def ticks(top: float) -> list[float]:
    """Three to six round numbers, from 0 to `top` or just above it."""
    if top <= 0:
        return [0.0, 1.0]
    rough = top / 4
    power = 10.0 ** floor(log10(rough))
    step = next(power * round_ for round_ in (1, 2, 2.5, 5, 10) if power * round_ >= rough)
    count = -int(-top // step)
    return [step * place for place in range(count + 1)]
