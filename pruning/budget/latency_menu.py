"""Tables of measured blocks, and what a budget in ms may choose among by them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from analysis.vit import Architecture, BlockWidths
from pruning.budget.allocate import Item, Menu, align_of, choose, widths_on_grid
from pruning.budget.curves import BUDGETED_STRUCTURES, Sensitivities
from pruning.budget.starts import starts

FEWER = (0.25, 0.5, 0.75)  # of the tokens, with which a block is timed beside all of them
_MOST = 12  # widths of one structure that are timed


@dataclass(frozen=True)
class LatencyTable:
    """Milliseconds of a batch on this machine: the dense model, and blocks narrowed in one structure.

    `shares` say what part of its dense block's time a narrowed block takes, by dense and narrowed
    widths, of which half may be absent; `blocks` are the dense blocks' milliseconds. `tokens` give the same
    for a dense block that is given fewer tokens, as pairs of their share and of time, both rising to one, and
    `merging` the milliseconds that merging takes in a block; without them no budget changes what merges.
    `by_tokens` is what fewer tokens save in whole models as a multiple of what they save in blocks. A table
    of another device has its name in `device`, and in `truth` what whole models save there: pairs of
    milliseconds, by the sum of blocks and as timed, rising.
    """

    batch: int
    model: float
    blocks: Mapping[BlockWidths, float]
    shares: Mapping[tuple[BlockWidths, BlockWidths], float]
    device: str | None = None
    truth: tuple[tuple[float, float], ...] = ()
    tokens: Mapping[BlockWidths, tuple[tuple[float, float], ...]] = field(default_factory=dict)
    merging: float = 0.0
    by_tokens: float = 1.0

    def lowest(self, dense: Architecture) -> float:
        """Milliseconds of the dense model with everything narrowed as far as was timed, all tokens kept."""
        saved = 0.0
        for whole in dense.blocks:
            narrowed = [other for block, other in self.shares if block == whole and other.heads and other.mlp]
            for name in BUDGETED_STRUCTURES:
                alone = [
                    other for other in narrowed if replace(other, **{name: getattr(whole, name)}) == whole
                ]
                saved += max(self.saved(whole, other) for other in alone if getattr(other, name))
        return self.left(saved)

    def left(self, saved: float) -> float:
        """Milliseconds that are left of the dense model's where the sum of blocks says so many are saved.

        The models of `truth` save a little more or less, the further the more: a parabola through no savings,
        by least squares [ours]; where it would turn, it goes on level. Without any model, the sum of blocks
        is taken as it is.
        """
        slope, bend = _parabola(self.truth)
        most = saved if bend >= 0 else min(saved, -slope / (2 * bend))  # where the parabola would turn
        return self.model - most * (slope + bend * most)

    def saved(self, dense: BlockWidths, narrowed: BlockWidths) -> float:
        """Milliseconds that a narrowed block saves; below zero where it is slower."""
        return self.blocks[dense] * (1 - self.shares[dense, narrowed])

    def share_of(self, block: BlockWidths, tokens: float) -> float:
        """The part of its time that a block takes with this share of the tokens, between those timed."""
        if tokens >= 1 or block not in self.tokens:
            return 1.0
        shares, times = zip(*self.tokens[block], strict=True)
        return float(np.interp(tokens, shares, times))


def _parabola(pairs: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """a and b of y = a x + b x^2 by least squares, with a above 0; b is 0 unless two pairs tell it."""
    x, y = (np.array([pair[axis] for pair in pairs], dtype=float) for axis in (0, 1))
    if not len(x):
        return 1.0, 0.0
    if len(set(x.tolist())) > 1:
        (slope, bend), *_ = np.linalg.lstsq(np.stack([x, x**2], axis=1), y, rcond=None)
        if slope > 0:
            return float(slope), float(bend)
    return float(x @ y / (x @ x)), 0.0


class Timetable(NamedTuple):
    """A start of a budget in ms: its architecture, predicted divergence and menu."""

    arch: Architecture
    loss: float
    menu: Menu


def latency_menu(
    dense: Architecture, sensitivities: Sensitivities, table: LatencyTable, align: int = 8
) -> Menu:
    """The menu of the dense model, priced in milliseconds of the table."""
    return _menu(dense, dense, sensitivities, table, align)


def latency_starts(
    dense: Architecture,
    sensitivities: Sensitivities,
    table: LatencyTable,
    align: int = 8,
    tokens: bool = True,
    depth: bool = True,
) -> tuple[Timetable, ...]:
    """All starts for a budget in ms with their menus, the dense model among them."""
    found = []
    for start in starts(dense, sensitivities, "ms", tokens and bool(table.tokens), depth):
        if _timed_halves(dense, start.arch, table):
            menu = _menu(dense, start.arch, sensitivities, table, align)
            found.append(Timetable(start.arch, start.loss, menu))
    return tuple(found)


def best_start(found: Sequence[Timetable], limit: float) -> Timetable:
    """The start whose widths for this limit are predicted to do the least damage.

    Raises:
        ValueError: no start can reach it.
    """
    able = [one for one in found if one.menu.lowest <= limit]
    if not able:
        raise ValueError(f"the smallest possible is {min(one.menu.lowest for one in found):g}, got {limit:g}")
    return min(able, key=lambda one: one.loss + _loss(one.menu, choose(one.menu, limit)))


def _loss(menu: Menu, taken: Sequence[int]) -> float:
    return sum(item.losses[place] for item, place in zip(menu.items, taken, strict=True))


def _timed_halves(dense: Architecture, arch: Architecture, table: LatencyTable) -> bool:
    pairs = zip(dense.blocks, arch.blocks, strict=True)
    return all((whole, _dense_half(whole, left)) in table.shares for whole, left in pairs)


def _dense_half(whole: BlockWidths, left: BlockWidths) -> BlockWidths:
    """A dense block without the halves that `left` lacks; what is wholly absent counts as its MLP, kept."""
    if left.heads and left.mlp:
        return whole
    return replace(whole, mlp=0) if left.heads else BlockWidths(0, 0, 0, whole.mlp)


def _menu(
    dense: Architecture, arch: Architecture, sensitivities: Sensitivities, table: LatencyTable, align: int
) -> Menu:
    """The menu of a start: its widths save what they do in the dense model, for the tokens that are left."""
    saved, shares = _saved_by_start(dense, arch, table)
    items = []
    for index, (curves, share) in enumerate(zip(sensitivities.blocks, shares, strict=True)):
        whole = dense.blocks[index]
        for name in BUDGETED_STRUCTURES:
            if not getattr(arch.blocks[index], name):
                continue
            curve = getattr(curves, name)
            step = align_of(dense, name, align)
            offered = _timed(table, whole, name, widths_on_grid(getattr(whole, name), curve.least, step))
            savings = tuple(share * table.saved(whole, replace(whole, **{name: width})) for width in offered)
            items.append(Item(index, name, offered, savings, tuple(map(curve.at, offered))))
    return Menu(table.model - saved, tuple(items))


def saved_by_blocks(dense: Architecture, arch: Architecture, table: LatencyTable) -> float | None:
    """Milliseconds that a whole model saves by the sum of its blocks; None where a half was not timed.

    It is priced as menus price it, widths between those timed by a line.
    """
    if not _timed_halves(dense, arch, table):
        return None
    total, shares = _saved_by_start(dense, arch, table)
    for whole, left, share in zip(dense.blocks, arch.blocks, shares, strict=True):
        for name in BUDGETED_STRUCTURES:
            width = getattr(left, name)
            if not width:
                continue
            timed = sorted(
                (getattr(other, name), table.saved(whole, other))
                for block, other in table.shares
                if block == whole
                and getattr(other, name)
                and replace(other, **{name: getattr(whole, name)}) == whole
            )
            total += share * float(np.interp(width, [at for at, _ in timed], [ms for _, ms in timed]))
    return total


def _saved_by_start(
    dense: Architecture, arch: Architecture, table: LatencyTable
) -> tuple[float, tuple[float, ...]]:
    """What merging and missing halves save, and for each block the part of its time that its tokens take."""
    saved, shares = 0.0, []
    for index, (whole, left) in enumerate(zip(dense.blocks, arch.blocks, strict=True)):
        own, share = (table.share_of(whole, _given(one, index) / dense.num_tokens) for one in (dense, arch))
        half = table.shares[whole, _dense_half(whole, left)] if left.heads or left.mlp else 0.0
        saved += table.blocks[whole] * (table.by_tokens * (own - share) + share * (1 - half))
        saved -= table.merging * (bool(left.merge) - bool(whole.merge))
        shares.append(share)
    return saved, tuple(shares)


def halves_alone(whole: BlockWidths) -> tuple[BlockWidths, ...]:
    """A block's attention and its MLP, each by itself as it is timed; none where it lacks a half."""
    both = whole.heads and whole.mlp
    return (replace(whole, mlp=0), BlockWidths(0, 0, 0, whole.mlp)) if both else ()


def merged_alone(dense: Architecture, whole: BlockWidths) -> tuple[BlockWidths, ...]:
    """A block's attention with merging behind it as it is timed; none where it lacks a half."""
    count = dense.grid[0] * dense.grid[1] // 10
    return (replace(whole, mlp=0, merge=count),) if count and whole.heads and whole.mlp else ()


def _given(arch: Architecture, index: int) -> float:
    """Tokens of a block: the mean of those in its attention and those in its MLP."""
    return arch.tokens[index] - arch.blocks[index].merge / 2


def _timed(table: LatencyTable, whole: BlockWidths, name: str, grid: Sequence[int]) -> tuple[int, ...]:
    """The widths of a grid that the table has times of."""
    return thinned([w for w in grid if (whole, replace(whole, **{name: w})) in table.shares])


def thinned(grid: Sequence[int]) -> tuple[int, ...]:
    """Widths worth timing: all, or every second or third where there are many."""
    step = -(-len(grid) // _MOST)
    return tuple(grid[::step])
