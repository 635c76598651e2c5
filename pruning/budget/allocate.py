"""Budgets: the user names GMACs, parameters or milliseconds, and the solver finds the widths.

`allocate` weighs what narrowing a structure of a block saves against the damage measured for it
(`pruning.budget.sensitivity`). Budgets in milliseconds are solved in `pruning.budget.latency` on a table
of this machine, by the same solver.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from analysis.formats import Checked
from analysis.measure import MOST_BATCH, block_cost, cost
from analysis.vit import Architecture
from pruning.budget.curves import BUDGETED_STRUCTURES, Sensitivities
from pruning.budget.starts import starts
from pruning.cut import merges_of, require_align

BUDGET_UNITS = {"gmacs": "GMACs", "params": "parameters", "ms": "ms"}
MOST_MS = 1_000_000  # of a budget: a quarter of an hour
WITHIN = 0.02  # a budget is met from at most this share below
_PER = {"gmacs": 10**9, "params": 1}  # what the solver counts in


@dataclass(frozen=True)
class Budget(Checked):
    """What the smaller model may cost: one of GMACs of an image, parameters, milliseconds of a batch.

    `batch` is the images that a latency is measured on, `images` the calibration images that
    sensitivities are measured on, at most. `tokens` allows it to merge tokens, `depth` to leave out whole
    halves of blocks.

    Raises:
        ValueError: a value of another type, none or several of the three, or one out of its range.
    """

    gmacs: int | float | None = None
    params: int | float | None = None
    ms: int | float | None = None
    batch: int = 1
    images: int = 48
    tokens: bool = True
    depth: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        given = [kind for kind in BUDGET_UNITS if getattr(self, kind) is not None]
        if len(given) != 1:
            got = " and ".join(given) or "none"
            raise ValueError(f"a budget is one of {', '.join(BUDGET_UNITS)}, got {got}")
        if not (self.asked > 0 and math.isfinite(self.asked)):
            raise ValueError(f"a budget must be a number above 0, got {self.asked}")
        for name in ("batch", "images"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"a budget's {name} must be a whole number of at least 1, got {getattr(self, name)}"
                )
        if self.batch > MOST_BATCH:
            raise ValueError(f"a budget's batch must be at most {MOST_BATCH:,}, got {self.batch:,}")
        if self.ms is not None and self.ms > MOST_MS:
            raise ValueError(f"a budget must be at most {MOST_MS:,} ms, got {self.ms:,}")
        if self.batch != 1 and self.ms is None:
            raise ValueError("a batch size belongs to a budget in ms only")

    @property
    def kind(self) -> str:
        """gmacs, params or ms."""
        return next(kind for kind in BUDGET_UNITS if getattr(self, kind) is not None)

    @property
    def asked(self) -> float:
        """How much of it."""
        number: float = getattr(self, self.kind)
        return number


@dataclass(frozen=True)
class Allocation:
    """Widths found for a budget, what they cost of it, and the predicted sum of divergences.

    `device` names the device that milliseconds are predicted for, None where they were measured.
    """

    arch: Architecture
    budget: Budget
    got: float
    loss: float
    device: str | None = None

    @property
    def sentence(self) -> str:
        """Asked and got, for people."""
        kind = self.budget.kind
        where = f", predicted for {self.device}" if self.device else ""
        return f"asked for {amount(self.budget.asked, kind)}, got {amount(self.got, kind)}{where}"


def amount(number: float, kind: str) -> str:
    """An amount of a budget's kind with its unit."""
    return f"{number:{',.0f' if kind == 'params' else ',.4g'}} {BUDGET_UNITS[kind]}"


class Item(NamedTuple):
    """One structure of one block: widths on offer, from the dense one down, with saving and loss of each."""

    block: int
    structure: str
    widths: tuple[int, ...]
    savings: tuple[float, ...]
    losses: tuple[float, ...]
    hull: tuple[int, ...] = ()  # places on the lower convex hull of loss over saving, where it is known


@dataclass(frozen=True)
class Menu:
    """All that can be narrowed, and the price of dense widths, in MACs, parameters or milliseconds.

    `whole` is the price of the dense model itself where these dense widths merge tokens or lack halves.
    """

    dense: float
    items: tuple[Item, ...]
    whole: float | None = None

    @property
    def lowest(self) -> float:
        """Price of the cheapest choice."""
        return self.dense - sum(max(item.savings) for item in self.items)


def allocate(dense: Architecture, sensitivities: Sensitivities, budget: Budget, align: int = 8) -> Allocation:
    """The model of least predicted damage within a budget of GMACs or parameters, and close below it.

    Widths are multiples of `align`, or the dense ones; heads and residual stream stay. Tokens merge and
    halves of blocks go where the budget allows it and they were measured.

    Raises:
        ValueError: a budget above the dense model, below the smallest possible, or in ms.
    """
    return candidates(dense, sensitivities, budget, align, 1)[0]


def candidates(
    dense: Architecture, sensitivities: Sensitivities, budget: Budget, align: int = 8, most: int = 3
) -> tuple[Allocation, ...]:
    """The best few of what `allocate` weighs, the least predicted damage first, no two of which merge alike.

    Raises:
        ValueError: as `allocate`.
    """
    if budget.kind == "ms":
        raise ValueError("a budget in ms needs a table of measured latencies: use allocate_latency")
    per, curves = _PER[budget.kind], offers(dense, sensitivities, align)
    begins = starts(dense, sensitivities, budget.kind, budget.tokens, budget.depth)
    menus = [cost_menu(one.arch, curves, budget.kind) for one in begins]
    lowest, highest = min(menu.lowest for menu in menus), max(menu.dense for menu in menus)
    require_reachable(budget, lowest / per, highest / per)
    limit = _counted(budget.asked, per)
    ranked = sorted(
        (one.loss + float(frontier(menu)(limit)), number)
        for number, (one, menu) in enumerate(zip(begins, menus, strict=True))
        if menu.lowest <= limit
    )
    found: dict[tuple[int, ...], Allocation] = {}
    for _, number in ranked:
        arch = apply(begins[number].arch, menus[number], choose(menus[number], limit))
        loss = sensitivities.loss(arch)  # of schedules that were measured: merging less does less damage
        arch = _merging_less(arch, budget.kind, limit)
        found.setdefault(merges_of(arch), Allocation(arch, budget, spent(arch, budget.kind), loss))
        if len(found) == most:
            break
    return tuple(sorted(found.values(), key=lambda one: one.loss))


def _merging_less(arch: Architecture, kind: str, limit: float) -> Architecture:
    """Use up room that no width is left to fill by merging fewer tokens, where the most merge."""
    while kind == "gmacs" and arch.merges:
        most = max(range(arch.depth), key=lambda index: (arch.blocks[index].merge, index))
        fewer = replace(arch.blocks[most], merge=arch.blocks[most].merge - 1)
        other = replace(arch, blocks=(*arch.blocks[:most], fewer, *arch.blocks[most + 1 :]))
        if cost(other).macs > limit:
            return arch
        arch = other
    return arch


def _counted(asked: float, per: int) -> float:
    """How many MACs or parameters were asked for.

    A whole number of them, divided by `per` and multiplied by it again, is sometimes a hair less than it
    was: the dense model would then not meet its own budget, and the smallest would be out of reach.
    """
    whole = round(asked * per)
    return whole if whole / per == asked else asked * per


def require_reachable(budget: Budget, lowest: float, highest: float) -> None:
    """Refuse a budget that no widths on offer can meet, or that needs none.

    Raises:
        ValueError: it is outside of the range from `lowest` to `highest`.
    """
    if not lowest <= budget.asked <= highest:
        # a sum of latencies, each measured by itself, may come out below zero
        least = f"from {amount(lowest, budget.kind)}" if lowest > 0 else "above 0"
        raise ValueError(
            f"a budget for this model must be {least} (narrowed as far as was "
            f"measured) to {amount(highest, budget.kind)} (dense), got {amount(budget.asked, budget.kind)}"
        )


def spent(arch: Architecture, kind: str) -> float:
    """What an architecture costs, in the unit of a budget of GMACs or parameters."""
    return {"gmacs": cost(arch).gmacs, "params": cost(arch).params}[kind]


class Point(NamedTuple):
    """A point of the trade-off: GMACs, and the predicted divergence."""

    got: float
    loss: float


def trade_off(
    dense: Architecture,
    sensitivities: Sensitivities,
    align: int = 8,
    points: int = 40,
    tokens: bool = True,
    depth: bool = True,
) -> tuple[Point, ...]:
    """What budgets from the smallest possible model to the dense one predict, evenly spread over GMACs."""
    curves = offers(dense, sensitivities, align)
    begins = starts(dense, sensitivities, "gmacs", tokens, depth)
    menus = [cost_menu(one.arch, curves, "gmacs") for one in begins]
    lowest, highest = min(menu.lowest for menu in menus), max(menu.dense for menu in menus)
    limits = lowest + (highest - lowest) * np.arange(points) / (points - 1)
    losses = [one.loss + frontier(menu)(limits) for one, menu in zip(begins, menus, strict=True)]
    best = np.minimum.accumulate(np.min(losses, axis=0))
    return tuple(Point(float(macs) / 1e9, float(loss)) for macs, loss in zip(limits, best, strict=True))


class Offer(NamedTuple):
    """Widths on offer for one structure of one block, from the dense one down, and the damage of each.

    `hull` are the places on the lower convex hull of damage over what is removed.
    """

    block: int
    structure: str
    widths: tuple[int, ...]
    losses: tuple[float, ...]
    hull: tuple[int, ...]


def offers(dense: Architecture, sensitivities: Sensitivities, align: int) -> tuple[Offer, ...]:
    """All that can be narrowed, whatever it costs."""
    found = []
    for block, (curves, whole) in enumerate(zip(sensitivities.blocks, dense.blocks, strict=True)):
        for name in BUDGETED_STRUCTURES:
            width, curve = getattr(whole, name), getattr(curves, name)
            if width:
                widths = widths_on_grid(width, curve.least, align_of(dense, name, align))
                losses = tuple(map(curve.at, widths))
                removed = tuple(float(width - kept) for kept in widths)
                hull = tuple(_hull(Item(block, name, widths, removed, losses)))
                found.append(Offer(block, name, widths, losses, hull))
    return tuple(found)


def cost_menu(start: Architecture, curves: Sequence[Offer], kind: str) -> Menu:
    """The menu of a start priced in MACs or parameters, in both of which its widths simply add up."""
    quantity = {"gmacs": "macs", "params": "params"}[kind]
    counts, items = list(pairwise(start.tokens)), []
    for block, name, widths, losses, hull in curves:
        whole = start.blocks[block]
        width = getattr(whole, name)
        if not width:  # half of the block is absent
            continue
        wider = replace(whole, **{name: width + 1})
        more, less = (getattr(block_cost(start, one, counts[block]), quantity) for one in (wider, whole))
        savings = tuple((more - less) * (width - kept) for kept in widths)
        items.append(Item(block, name, widths, savings, losses, hull))
    return Menu(getattr(cost(start), quantity), tuple(items))


def frontier(menu: Menu) -> Callable[[Any], Any]:
    """A function from a limit, or an array of them, to the least predicted damage of the menu's widths.

    It takes steps whole, as `choose` does before it widens, and gives infinity where the menu cannot reach.
    """
    steps = [
        (rate, menu.items[number].savings[place], menu.items[number].losses[place], number)
        for rate, number, place in _steps(menu)
    ]
    saved, lost, prices, losses = 0.0, 0.0, [0.0], [0.0]
    reached: dict[int, tuple[float, float]] = {}
    for _, saving, loss, number in sorted(steps):
        before = reached.get(number, (0.0, 0.0))
        saved, lost = saved + saving - before[0], lost + loss - before[1]
        reached[number] = saving, loss
        prices.append(saved)
        losses.append(lost)
    at = np.array([*losses, math.inf])

    def least(limit: Any) -> Any:
        return at[np.searchsorted(prices, menu.dense - np.asarray(limit) - 1e-9 * menu.dense)]

    return least


def align_of(dense: Architecture, structure: str, align: int) -> int:
    """What widths of a structure are multiples of: pairs of a model with rotary positions go by twos."""
    return math.lcm(align, 2) if dense.rope and structure == "qk" else align


def widths_on_grid(dense: int, least: int, align: int) -> tuple[int, ...]:
    """The dense width and the multiples of `align` below it, down to `least`, falling.

    Raises:
        ValueError: align is out of its range.
    """
    require_align(align)
    first, last = (dense - 1) // align * align, -(-least // align) * align
    return (dense, *range(first, last - 1, -align))


def choose(menu: Menu, limit: float) -> tuple[int, ...]:
    """For each item the place of the width to take, so that what is left costs at most `limit`.

    Greedy by loss per saving (Fox 1966) on the lower convex hulls of the curves: from the dense model
    downwards, the step with the least loss for what it saves comes first, until the limit is met. What
    room the last step left goes to widening again. With convex curves no choice that is cheaper by one
    width or more has a lower loss.

    Raises:
        ValueError: a limit below what the menu can reach.
    """
    if limit < menu.lowest:
        raise ValueError(f"the smallest possible is {menu.lowest:g}, got {limit:g}")
    taken, price = [0] * len(menu.items), menu.dense
    for _, number, place in sorted(_steps(menu)):
        if price <= limit:
            break
        savings = menu.items[number].savings
        price -= savings[place] - savings[taken[number]]
        taken[number] = place
    # milliseconds add up to the lowest price but for rounding
    return _widened(menu, taken, max(0.0, limit - price))


def _steps(menu: Menu) -> Iterator[tuple[float, int, int]]:
    """Steps along every item's hull: loss per saving, number of the item, place that it leads to."""
    for number, item in enumerate(menu.items):
        hull = item.hull or _hull(item)
        for first, second in pairwise(hull):
            lost = item.losses[second] - item.losses[first]
            yield lost / (item.savings[second] - item.savings[first]), number, second


def _hull(item: Item) -> list[int]:
    """Places on the lower convex hull of loss over saving; a width that saves nothing is not on it."""
    hull = [0]
    for place, saving in enumerate(item.savings):
        if saving <= item.savings[hull[-1]]:
            continue
        while len(hull) > 1 and _slope(item, hull[-2], place) <= _slope(item, hull[-2], hull[-1]):
            hull.pop()
        hull.append(place)
    return hull


def _slope(item: Item, first: int, second: int) -> float:
    return (item.losses[second] - item.losses[first]) / (item.savings[second] - item.savings[first])


def _widened(menu: Menu, taken: Sequence[int], room: float) -> tuple[int, ...]:
    """Use up what room is left by widening, the most loss regained per price first."""
    taken = list(taken)
    while True:
        offers = []
        for number, item in enumerate(menu.items):
            here = taken[number]
            for place in range(here):
                extra = item.savings[here] - item.savings[place]
                if extra <= room:
                    gain = item.losses[here] - item.losses[place]
                    rate = gain / extra if extra > 0 else math.inf
                    offers.append((rate, extra, number, place))
        if not offers:
            return tuple(taken)
        _, extra, number, place = max(offers)
        taken[number], room = place, room - extra


def apply(dense: Architecture, menu: Menu, taken: Sequence[int]) -> Architecture:
    """The architecture with the widths chosen."""
    blocks = list(dense.blocks)
    for item, place in zip(menu.items, taken, strict=True):
        blocks[item.block] = replace(blocks[item.block], **{item.structure: item.widths[place]})
    return replace(dense, blocks=tuple(blocks))
