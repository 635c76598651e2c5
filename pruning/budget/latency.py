"""Budgets in milliseconds: what widths are worth on this machine decides, not how many MACs they save.

A table of measured blocks says what a width saves. A width that is no faster than a wider one is
never taken: it would cost accuracy for nothing. Blocks are taken to add up; the model that comes
out is timed against the dense one, and the sum corrected by what was measured.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from statistics import mean, median

import torch
from torch import nn

from analysis.measure import bench, take_turns, torch_runner
from analysis.vit import Architecture, Block, BlockWidths, Placed, ViT
from pruning.budget.allocate import (
    WITHIN,
    Allocation,
    Budget,
    Menu,
    align_of,
    apply,
    choose,
    require_reachable,
    widths_on_grid,
)
from pruning.budget.curves import BUDGETED_STRUCTURES, Sensitivities
from pruning.budget.latency_menu import (
    FEWER,
    LatencyTable,
    best_start,
    halves_alone,
    latency_starts,
    merged_alone,
    thinned,
)
from pruning.budget.sensitivity import measured_widths
from pruning.progress import Progress, quiet

_ROUNDS = 15
_WARMUP = 2
_ATTEMPTS = 4  # models that are timed to correct the sum
_CHECKS = 6  # models that may be timed anew before the budget counts as out of reach
_REPEATS = 3  # measurements of each of these
_AIM = 1 - WITHIN / 2  # of the budget: in the middle of what counts as met

Milliseconds = Callable[[Architecture], float]  # measures a model of these widths


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
    begins = latency_starts(dense, sensitivities, table, align, budget.tokens, budget.depth)
    lowest = min(one.menu.lowest for one in begins)
    require_reachable(budget, lowest, max(one.menu.dense for one in begins))
    dense, _, menu = best_start(begins, max(lowest, _AIM * budget.ms))
    menu = replace(menu, whole=table.model)
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
    whole = menu.dense if menu.whole is None else menu.whole
    saved = sum((whole - price) ** 2 for price, _ in found)
    truly = sum((whole - price) * (whole - measured) for price, measured in found)
    if truly <= 0:  # nothing was measured to be faster than the dense model
        return menu.lowest
    return min(max(whole - (whole - ms) * saved / truly, menu.lowest), menu.dense)


def _price(menu: Menu, taken: Sequence[int]) -> float:
    return menu.dense - sum(item.savings[place] for item, place in zip(menu.items, taken, strict=True))


def measure_table(
    dense: Architecture, batch: int, align: int = 8, progress: Progress = quiet
) -> LatencyTable:
    """Time blocks at every width on offer, all of one block's in turns; medians of several rounds.

    Beside the widths each dense block is timed with fewer tokens, without one half, and merging.
    """
    medians: dict[BlockWidths, float] = {}
    shares: dict[tuple[BlockWidths, BlockWidths], float] = {}
    tokens: dict[BlockWidths, tuple[tuple[float, float], ...]] = {}
    merging: list[float] = []
    kinds = dict.fromkeys(dense.blocks)  # equal blocks are timed once
    for done, block in enumerate(kinds):
        whole = replace(block, merge=0)
        offered = [
            replace(whole, **{name: width})
            for name in BUDGETED_STRUCTURES
            if getattr(whole, name)
            for width in _offered(
                getattr(whole, name),
                measured_widths(getattr(whole, name))[-1],
                align_of(dense, name, align),
            )
        ]
        alone, merges = halves_alone(whole), merged_alone(dense, whole)
        timed = [(widths, 1.0) for widths in dict.fromkeys([*offered, whole, *alone, *merges])]
        times = _in_turns(dense, [*timed, *((whole, share) for share in FEWER)], batch)
        medians[block] = times[whole, 1.0]
        shares |= {
            (block, _with(block, w)): times[w, 1.0] / medians[block] for w in (*offered, whole, *alone)
        }
        tokens[block] = tuple((share, times[whole, share] / medians[block]) for share in (*FEWER, 1.0))
        merging += [times[merges[0], 1.0] - times[alone[0], 1.0]] if merges else []
        progress("Timing widths", (done + 1) / len(kinds))
    spent = max(0.0, median(merging)) if merging else 0.0
    return LatencyTable(
        batch, _time_dense(dense, batch), medians, shares, tokens=tokens if merging else {}, merging=spent
    )


def _with(block: BlockWidths, widths: BlockWidths) -> BlockWidths:
    """Widths under the name they have in a table of this block, which may merge itself."""
    return replace(widths, merge=block.merge) if widths.heads else widths


def _offered(dense: int, least: int, align: int) -> tuple[int, ...]:
    """Widths worth timing: those on the grid, thinned out evenly where there are many."""
    return thinned(widths_on_grid(dense, least, align))


def _in_turns(
    dense: Architecture, offered: Sequence[tuple[BlockWidths, float]], batch: int
) -> dict[tuple[BlockWidths, float], float]:
    """Median milliseconds of a block of these widths with this share of the tokens, random weights."""
    blocks = [Block(dense, widths).eval() for widths, _ in offered]
    inputs = [_tokens(dense, batch, share) for _, share in offered]
    samples: list[list[float]] = [[] for _ in offered]
    for turn in range(-_WARMUP, _ROUNDS):
        order = range(len(blocks))
        for place in order if turn % 2 else reversed(order):
            spent = _milliseconds(blocks[place], inputs[place])
            if turn >= 0:
                samples[place].append(spent)
    return {which: median(spent) for which, spent in zip(offered, samples, strict=True)}


def _tokens(dense: Architecture, batch: int, share: float) -> tuple[torch.Tensor, Placed | None]:
    """A share of a model's tokens, with sizes and places where their places count and some are gone."""
    count = max(1, round(share * dense.num_tokens))
    x = torch.randn(batch, count, dense.embed_dim)
    placed = (dense.rope or dense.position_bias) and count < dense.num_tokens
    return x, (torch.ones(batch, count), torch.arange(count).expand(batch, -1)) if placed else None


def _milliseconds(block: nn.Module, given: tuple[torch.Tensor, Placed | None]) -> float:
    with torch.inference_mode():
        began = time.perf_counter()
        block(*given)
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
