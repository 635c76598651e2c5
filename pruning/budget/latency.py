"""Budgets in milliseconds: what widths are worth on this machine decides, not how many MACs they save.

A table of measured blocks says what a width saves. A width that is no faster than a wider one is
never taken: it would cost accuracy for nothing. Blocks are taken to add up; the model that comes
out is timed against the dense one, and the sum corrected by what was measured.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from statistics import mean, median

import torch
from torch import nn

from analysis.measure import bench, take_turns, torch_runner
from analysis.vit import Architecture, Block, BlockWidths, ViT
from pruning.budget.allocate import (
    WITHIN,
    Allocation,
    Budget,
    Item,
    Menu,
    apply,
    choose,
    require_reachable,
    widths_on_grid,
)
from pruning.budget.curves import BUDGETED_STRUCTURES, Sensitivities
from pruning.budget.sensitivity import measured_widths
from pruning.progress import Progress, quiet

_MOST = 12  # widths of one structure that are timed
_ROUNDS = 15
_WARMUP = 2
_ATTEMPTS = 4  # models that are timed to correct the sum
_CHECKS = 6  # models that may be timed anew before the budget counts as out of reach
_REPEATS = 3  # measurements of each of these
_AIM = 1 - WITHIN / 2  # of the budget: in the middle of what counts as met

Milliseconds = Callable[[Architecture], float]  # measures a model of these widths


@dataclass(frozen=True)
class LatencyTable:
    """Milliseconds of a batch on this machine: the dense model, and blocks narrowed in one structure.

    `shares` say what part of its dense block's time a narrowed block takes, by dense and narrowed
    widths; `blocks` are the dense blocks' milliseconds. A table of another device has its name in `device`,
    and in `truth` what whole models save there: pairs of milliseconds, by the sum of blocks and as timed,
    rising.
    """

    batch: int
    model: float
    blocks: Mapping[BlockWidths, float]
    shares: Mapping[tuple[BlockWidths, BlockWidths], float]
    device: str | None = None
    truth: tuple[tuple[float, float], ...] = ()

    def lowest(self, dense: Architecture) -> float:
        """Milliseconds of the dense model with everything narrowed as far as was timed."""
        saved = 0.0
        for whole in dense.blocks:
            narrowed = [other for block, other in self.shares if block == whole]
            for name in BUDGETED_STRUCTURES:
                alone = [
                    other for other in narrowed if replace(other, **{name: getattr(whole, name)}) == whole
                ]
                saved += max(self.saved(whole, other) for other in alone)
        return self.left(saved)

    def left(self, saved: float) -> float:
        """Milliseconds that are left of the dense model's where the sum of blocks says so many are saved.

        What a model saves in truth is between what the two nearest models of `truth` save, by a line; beyond
        the last of them it is in proportion. Without any, the sum of blocks is taken as it is [ours].
        """
        points = [(0.0, 0.0)]
        for said, true in self.truth:
            points.append((said, max(true, points[-1][1])))  # noise must not make the smaller model slower
        for (left, before), (right, after) in pairwise(points):
            if saved <= right:
                return self.model - before - (after - before) * (saved - left) / (right - left)
        last, true = points[-1]
        return self.model - saved * (true / last if last else 1.0)

    def saved(self, dense: BlockWidths, narrowed: BlockWidths) -> float:
        """Milliseconds that a narrowed block saves; below zero where it is slower."""
        return self.blocks[dense] * (1 - self.shares[dense, narrowed])


def allocate_latency(
    dense: Architecture,
    sensitivities: Sensitivities,
    budget: Budget,
    table: LatencyTable,
    align: int = 8,
    measure: Milliseconds | None = None,
    progress: Progress = quiet,
) -> Allocation:
    """Widths that meet a budget in ms as measured by `measure`, for little predicted damage.

    The table's sum of blocks is solved for, and the sum corrected by timing several models near the budget
    (`_corrected_limit`). The widths follow from that correction alone and are then timed anew: `got` of the
    result is this time. If it is above the budget, the widths are narrowed and timed anew again. Taking the
    slowest of the first models that was measured below the budget would favour those whose time came out
    too low by chance, and overshoot [ours].

    A time is that of a model with random weights, in turns with the dense one and as a share of it, so that
    what else the machine does hardly counts.

    Raises:
        ValueError: another kind of budget, one out of reach, or no widths that were measured to meet it.
    """
    if budget.ms is None or budget.batch != table.batch:
        raise ValueError(f"this table was measured for budgets in ms at batch {table.batch}, got {budget}")
    measure = measure or partial(model_ms, dense, table)
    menu = latency_menu(dense, sensitivities, table, align)
    require_reachable(budget, menu.lowest, menu.dense)
    limit = _corrected_limit(dense, menu, budget.ms, measure, progress)
    least = math.inf
    for attempt in range(_CHECKS):
        progress("Timing the smaller model", 0.5 + attempt / (2 * _CHECKS))
        taken = choose(menu, limit)
        arch = apply(dense, menu, taken)
        got = mean(measure(arch) for _ in range(_REPEATS))
        if got <= budget.ms:
            progress("Timing the smaller model", 1.0)
            return Allocation(arch, budget, got, sensitivities.loss(arch))
        least, price = min(least, got), _price(menu, taken)
        if price <= menu.lowest:
            break
        limit = min(_limit(menu, _AIM * budget.ms, [(price, got)]), (1 - WITHIN / 2) * price)
        limit = max(limit, menu.lowest)
    raise ValueError(f"no widths took at most {budget.ms:.4g} ms; the fastest took {least:.4g} ms")


def _corrected_limit(
    dense: Architecture, menu: Menu, ms: float, measure: Milliseconds, progress: Progress
) -> float:
    """The price on the menu at which a model is expected to take a little less than `ms`."""
    found: list[tuple[float, float]] = []
    limit = max(menu.lowest, _AIM * ms)
    for attempt in range(_ATTEMPTS):
        progress("Timing the smaller model", attempt / (2 * _ATTEMPTS))
        taken = choose(menu, limit)
        found.append((_price(menu, taken), measure(apply(dense, menu, taken))))
        # the first model was chosen without any correction, and may lie far from the budget
        limit = _limit(menu, _AIM * ms, found[1:] or found)
    return limit


def _limit(menu: Menu, ms: float, found: Sequence[tuple[float, float]]) -> float:
    """The price at which a model takes `ms`, by pairs of price and measured milliseconds.

    What a model saves in truth is taken to be a constant times what it saves on the menu (least squares).
    """
    saved = sum((menu.dense - price) ** 2 for price, _ in found)
    truly = sum((menu.dense - price) * (menu.dense - measured) for price, measured in found)
    if truly <= 0:  # nothing was measured to be faster than the dense model
        return menu.lowest
    return min(max(menu.dense - (menu.dense - ms) * saved / truly, menu.lowest), menu.dense)


def _price(menu: Menu, taken: Sequence[int]) -> float:
    return menu.dense - sum(item.savings[place] for item, place in zip(menu.items, taken, strict=True))


def latency_menu(
    dense: Architecture, sensitivities: Sensitivities, table: LatencyTable, align: int = 8
) -> Menu:
    """The menu priced in milliseconds of the table."""
    items = []
    for block, (curves, whole) in enumerate(zip(sensitivities.blocks, dense.blocks, strict=True)):
        for name in BUDGETED_STRUCTURES:
            curve = getattr(curves, name)
            offered = _timed(table, whole, name, widths_on_grid(getattr(whole, name), curve.least, align))
            savings = tuple(table.saved(whole, replace(whole, **{name: width})) for width in offered)
            items.append(Item(block, name, offered, savings, tuple(map(curve.at, offered))))
    return Menu(table.model, tuple(items))


def measure_table(
    dense: Architecture, batch: int, align: int = 8, progress: Progress = quiet
) -> LatencyTable:
    """Time blocks at every width on offer, all of one block's in turns; medians of several rounds."""
    medians: dict[BlockWidths, float] = {}
    shares: dict[tuple[BlockWidths, BlockWidths], float] = {}
    kinds = dict.fromkeys(dense.blocks)  # equal blocks are timed once
    for done, whole in enumerate(kinds):
        offered = [
            replace(whole, **{name: width})
            for name in BUDGETED_STRUCTURES
            for width in _offered(getattr(whole, name), measured_widths(getattr(whole, name))[-1], align)
        ]
        times = _in_turns(dense, list(dict.fromkeys(offered)), batch)
        medians[whole] = times[whole]
        shares |= {(whole, widths): spent / times[whole] for widths, spent in times.items()}
        progress("Timing widths", (done + 1) / len(kinds))
    return LatencyTable(batch, _time_dense(dense, batch), medians, shares)


def _offered(dense: int, least: int, align: int) -> tuple[int, ...]:
    """Widths worth timing: those on the grid, thinned out evenly where there are many."""
    return _thinned(widths_on_grid(dense, least, align))


def _timed(table: LatencyTable, whole: BlockWidths, name: str, grid: Sequence[int]) -> tuple[int, ...]:
    """The widths of a grid that the table has times of."""
    return _thinned([w for w in grid if (whole, replace(whole, **{name: w})) in table.shares])


def _thinned(grid: Sequence[int]) -> tuple[int, ...]:
    step = -(-len(grid) // _MOST)
    return tuple(grid[::step])


def _in_turns(dense: Architecture, offered: list[BlockWidths], batch: int) -> dict[BlockWidths, float]:
    """Median milliseconds of a block of each of these widths, random weights."""
    blocks = [Block(dense, widths).eval() for widths in offered]
    x = torch.randn(batch, dense.num_tokens, dense.embed_dim)
    samples: list[list[float]] = [[] for _ in offered]
    for turn in range(-_WARMUP, _ROUNDS):
        order = range(len(blocks))
        for place in order if turn % 2 else reversed(order):
            spent = _milliseconds(blocks[place], x)
            if turn >= 0:
                samples[place].append(spent)
    return {widths: median(spent) for widths, spent in zip(offered, samples, strict=True)}


def _milliseconds(block: nn.Module, x: torch.Tensor) -> float:
    with torch.inference_mode():
        began = time.perf_counter()
        block(x)
        return (time.perf_counter() - began) * 1000


def model_ms(dense: Architecture, table: LatencyTable, arch: Architecture) -> float:
    """Milliseconds of a model of these widths: its share of the dense one's, timed in turns."""
    small, whole = (torch_runner(ViT(shape).eval()) for shape in (arch, dense))
    shape = (dense.in_channels, *dense.image_size)
    timing = bench(small, whole, shape, (table.batch,), rounds=_ROUNDS, looks=1)[table.batch]
    return table.model / timing.speedup


def _time_dense(dense: Architecture, batch: int) -> float:
    run = torch_runner(ViT(dense).eval())
    shape = (dense.in_channels, *dense.image_size)
    return median(take_turns([run], shape, (batch,), rounds=_ROUNDS)[batch][0])
