"""The solver: met from below, never worse than it must be, and honest about what is out of reach."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import pytest

from analysis.measure.cost import cost
from analysis.vit import Architecture, BlockWidths
from pruning.budget.allocate import (
    WITHIN,
    Allocation,
    Budget,
    Item,
    Menu,
    allocate,
    amount,
    choose,
    cost_menu,
    offers,
    require_reachable,
    trade_off,
    widths_on_grid,
)
from pruning.budget.curves import BUDGETED_STRUCTURES
from tests.support.budgets import DEIT_TINY, synthetic
from tests.support.models import TINY, VARIANTS


@pytest.mark.parametrize("align", [1, 4, 8, 16])
@pytest.mark.parametrize("power", [0.4, 1.0, 3.0])
def test_budgets_are_met_within_two_percent_from_below(align: int, power: float) -> None:
    found = synthetic(DEIT_TINY, power)
    for gmacs in (1.2, 1.02, 0.92, 0.71, 0.4):
        allocation = allocate(DEIT_TINY, found, Budget(gmacs=gmacs), align)
        assert allocation.got == cost(allocation.arch).gmacs
        assert (1 - WITHIN) * gmacs <= allocation.got <= gmacs
    for params in (5.6e6, 4e6, 2.5e6):
        allocation = allocate(DEIT_TINY, found, Budget(params=params), align)
        assert allocation.got == cost(allocation.arch).params
        assert (1 - WITHIN) * params <= allocation.got <= params


@pytest.mark.parametrize("align", [1, 4, 8, 16])
def test_widths_are_multiples_or_dense_and_heads_and_stream_stay(align: int) -> None:
    odd = replace(DEIT_TINY, blocks=(BlockWidths(3, 61, 64, 700), BlockWidths(2, 30, 9, 768)))
    found = synthetic(odd)
    arch = allocate(odd, found, Budget(gmacs=0.6 * cost(odd).gmacs), align).arch
    assert arch != odd and arch.embed_dim == odd.embed_dim
    for dense, kept in zip(odd.blocks, arch.blocks, strict=True):
        assert kept.heads == dense.heads
        for name in BUDGETED_STRUCTURES:
            width, whole = getattr(kept, name), getattr(dense, name)
            assert width == whole or (width < whole and width % align == 0)


def test_the_dense_model_meets_its_own_budget() -> None:
    for budget in (Budget(gmacs=cost(DEIT_TINY).gmacs), Budget(params=cost(DEIT_TINY).params)):
        allocation = allocate(DEIT_TINY, synthetic(DEIT_TINY), budget)
        assert allocation.arch == DEIT_TINY and allocation.loss == 0


def test_no_model_misses_its_own_budget_by_the_rounding_of_gmacs() -> None:
    """Of some numbers of MACs the GMACs, times 1e9 again, are a hair less."""
    rounds_down = lambda macs: macs / 1e9 * 1e9 < macs
    seen = set()
    for mlp in range(16, 400):
        arch = replace(TINY, blocks=(BlockWidths(3, 8, 8, mlp),) * 2)
        found = synthetic(arch)
        menu = cost_menu(arch, offers(arch, found, 1), "gmacs")
        for macs, blocks in ((menu.dense, arch.blocks), (menu.lowest, None)):
            if rounds_down(macs):
                allocation = allocate(arch, found, Budget(gmacs=macs / 1e9), 1)
                assert allocation.got == macs / 1e9 and blocks in (None, allocation.arch.blocks)
                seen.add(blocks is None)
    assert seen == {True, False}


def test_milliseconds_add_up_to_the_lowest_whatever_the_rounding() -> None:
    items = [Item(i, "v", (8, 4), (0.0, saving), (0.0, 1.0 + i)) for i, saving in enumerate((0.1, 0.2, 0.3))]
    menu = Menu(1.0, tuple(items))
    assert menu.lowest < 1.0 - 0.1 - 0.2 - 0.3  # as the steps are taken
    assert choose(menu, menu.lowest) == (1, 1, 1)


def test_the_smallest_model_can_be_asked_for() -> None:
    found = synthetic(DEIT_TINY)
    menu = cost_menu(DEIT_TINY, offers(DEIT_TINY, found, 8), "params")
    allocation = allocate(DEIT_TINY, found, Budget(params=menu.lowest))
    assert allocation.got == menu.lowest
    assert allocation.arch.blocks == (BlockWidths(3, 8, 8, 96),) * 12


@pytest.mark.parametrize("name", VARIANTS)
def test_tiny_models_get_as_near_as_their_steps_allow(name: str) -> None:
    arch = VARIANTS[name]
    found, dense = synthetic(arch), cost(arch).gmacs
    for align in (1, 4, 8):
        menu = cost_menu(arch, offers(arch, found, align), "gmacs")
        for share in (0.9, 0.7):
            asked = share * dense + (1 - share) * menu.lowest / 1e9
            allocation = allocate(arch, found, Budget(gmacs=asked), align)
            assert allocation.got <= asked
            for wider in _one_wider(arch, allocation.arch, align):
                assert cost(wider).gmacs > asked, "there was room for this"


def _one_wider(dense: Architecture, arch: Architecture, align: int) -> list[Architecture]:
    """Every architecture that is wider in one structure by one step."""
    found = []
    for index, (whole, kept) in enumerate(zip(dense.blocks, arch.blocks, strict=True)):
        for name in BUDGETED_STRUCTURES:
            width, limit = getattr(kept, name), getattr(whole, name)
            if width < limit:
                blocks = list(arch.blocks)
                blocks[index] = replace(kept, **{name: min(limit, width // align * align + align)})
                found.append(replace(arch, blocks=tuple(blocks)))
    return found


def test_with_convex_curves_a_smaller_budget_predicts_more_damage() -> None:
    found = synthetic(DEIT_TINY)
    line = trade_off(DEIT_TINY, found, points=12)
    assert [a.loss for a in line] == sorted((a.loss for a in line), reverse=True)
    assert [a.got for a in line] == sorted(a.got for a in line)
    assert line[-1] == (cost(DEIT_TINY).gmacs, 0.0)


# ---- against trying everything


def brute_force(menu: Menu, limit: float) -> float:
    """The least loss of any choice that costs at most `limit`."""
    best = math.inf
    for places in itertools.product(*(range(len(item.widths)) for item in menu.items)):
        pairs = list(zip(menu.items, places, strict=True))
        if menu.dense - sum(item.savings[place] for item, place in pairs) <= limit:
            best = min(best, sum(item.losses[place] for item, place in pairs))
    return best


def loss_of(menu: Menu, taken: tuple[int, ...]) -> float:
    return sum(item.losses[place] for item, place in zip(menu.items, taken, strict=True))


def price_of(menu: Menu, taken: tuple[int, ...]) -> float:
    return menu.dense - sum(item.savings[place] for item, place in zip(menu.items, taken, strict=True))


@pytest.mark.parametrize("power", [1.0, 2.0, 3.5])
def test_convex_curves_are_solved_as_well_as_by_trying_everything_up_to_one_step(power: float) -> None:
    arch = replace(TINY, blocks=(BlockWidths(3, 8, 8, 32), BlockWidths(3, 8, 8, 16)))
    menu = cost_menu(arch, offers(arch, synthetic(arch, power), 2), "gmacs")
    menu = replace(menu, items=tuple(_fewer(item) for item in menu.items))
    step = max(b - a for item in menu.items for a, b in itertools.pairwise(item.savings))
    for share in (0.95, 0.8, 0.6, 0.4, 0.2, 0.0):
        limit = menu.lowest + share * (menu.dense - menu.lowest)
        taken = choose(menu, limit)
        assert price_of(menu, taken) <= limit
        assert brute_force(menu, limit) <= loss_of(menu, taken) + 1e-12
        if limit - step >= menu.lowest:
            assert loss_of(menu, taken) <= brute_force(menu, limit - step) + 1e-12


def _fewer(item: Item) -> Item:
    """Four widths of an item, evenly spaced, so that everything can be tried."""
    places = range(4) if len(item.widths) < 8 else range(0, 8, 2)
    fewer: dict[str, Any] = {name: tuple(getattr(item, name)[i] for i in places) for name in _COLUMNS}
    return item._replace(**fewer, hull=())


_COLUMNS = ("widths", "savings", "losses")


def test_what_saves_nothing_is_not_taken() -> None:
    slow = Item(0, "qk", (8, 6, 4), (0.0, -1.0, 2.0), (0.0, 0.1, 0.2))  # 6 wide is slower than 8
    useless = Item(0, "v", (8, 4), (0.0, 0.0), (0.0, 0.0))
    menu = Menu(10.0, (slow, useless))
    assert menu.lowest == 8
    assert choose(menu, 9.5) == (2, 0)
    assert choose(menu, 10.0) == (0, 0)


def test_a_dent_in_a_curve_is_crossed_and_not_stopped_at() -> None:
    """Nearly all damage comes with the first step: going on costs little, so it is the one to empty."""
    steep = Item(0, "qk", (4, 3, 2, 1), (0.0, 1.0, 2.0, 3.0), (0.0, 2.7, 2.8, 3.0))
    plain = Item(0, "v", (4, 3, 2, 1), (0.0, 1.0, 2.0, 3.0), (0.0, 1.5, 3.0, 4.5))
    menu = Menu(6.0, (steep, plain))
    assert choose(menu, 3.0) == (3, 0)
    assert loss_of(menu, choose(menu, 3.0)) == brute_force(menu, 3.0)


# ---- data and bad input


def test_a_budget_knows_its_kind() -> None:
    assert (Budget(gmacs=0.9).kind, Budget(params=3.4e6).kind, Budget(ms=5, batch=8).kind) == (
        "gmacs",
        "params",
        "ms",
    )
    assert Budget(params=3.4e6).asked == 3_400_000


def test_asked_and_got_in_words() -> None:
    allocation = Allocation(TINY, Budget(params=3.4e6), 3_391_000, 0.1)
    assert allocation.sentence == "asked for 3,400,000 parameters, got 3,391,000 parameters"
    assert amount(0.91987, "gmacs") == "0.9199 GMACs"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "one of gmacs, params, ms, got none"),
        ({"gmacs": 1.0, "ms": 3.0}, "got gmacs and ms"),
        ({"gmacs": 0}, "must be a number above 0, got 0"),
        ({"params": -5}, "above 0, got -5"),
        ({"ms": math.nan}, "above 0, got nan"),
        ({"gmacs": math.inf}, "above 0, got inf"),
        ({"ms": 3.0, "batch": 0}, "batch must be a whole number of at least 1, got 0"),
        ({"gmacs": 1.0, "batch": 8}, "a batch size belongs to a budget in ms only"),
        ({"ms": 1e9}, "at most 1,000,000 ms, got 1,000,000,000"),
        ({"ms": 3.0, "batch": 1025}, "batch must be at most 1,024, got 1,025"),
        ({"gmacs": 1.0, "images": 0}, "images must be a whole number of at least 1, got 0"),
    ],
)
def test_impossible_budgets_are_refused(values: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Budget(**values)


@pytest.mark.parametrize("gmacs", [1.3, 0.1])
def test_budgets_out_of_reach_say_the_range(gmacs: float) -> None:
    with pytest.raises(ValueError, match=r"from 0\.1822 GMACs .* to 1\.254 GMACs \(dense\), got"):
        allocate(DEIT_TINY, synthetic(DEIT_TINY), Budget(gmacs=gmacs))


def test_a_range_that_would_begin_below_zero_begins_above_it() -> None:
    """The latencies that narrowing saves are measured one by one, and may add up to more than the model's."""
    with pytest.raises(
        ValueError, match=r"must be above 0 \(narrowed as far .* to 20 ms \(dense\), got 1,000 ms"
    ):
        require_reachable(Budget(ms=1000.0), -64.36, 20.0)
    require_reachable(Budget(ms=0.1), -64.36, 20.0)


def test_a_limit_below_the_menu_is_refused() -> None:
    with pytest.raises(ValueError, match="smallest possible is 8"):
        choose(Menu(10.0, (Item(0, "v", (8, 4), (0.0, 2.0), (0.0, 1.0)),)), 7)


def test_milliseconds_need_a_table() -> None:
    with pytest.raises(ValueError, match="a budget in ms needs a table"):
        allocate(DEIT_TINY, synthetic(DEIT_TINY), Budget(ms=10.0))


def test_widths_on_the_grid() -> None:
    assert widths_on_grid(64, 8, 8) == (64, 56, 48, 40, 32, 24, 16, 8)
    assert widths_on_grid(61, 8, 16) == (61, 48, 32, 16)
    assert widths_on_grid(8, 1, 8) == (8,)
    assert widths_on_grid(8, 8, 1) == (8,)
    with pytest.raises(ValueError, match="align must be"):
        widths_on_grid(8, 1, 0)
