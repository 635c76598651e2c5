"""Budgets over tokens and halves of blocks as well as widths."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from analysis.measure import cost
from analysis.vit import Architecture, BlockWidths
from pruning.budget import Budget, HalfLoss, MergeLoss, Sensitivities, allocate, candidates, trade_off
from pruning.budget.allocate import WITHIN, choose, cost_menu, frontier, offers
from pruning.budget.starts import starts
from pruning.budget.tokens import schedules, shared_out
from pruning.cut import merges_of, with_merges
from tests.support.budgets import DEIT_TINY, synthetic
from tests.support.models import SHORTER, TINY


def measured(arch: Architecture, tokens: float = 1e-4, halves: float = 1.0) -> Sensitivities:
    """Made-up damage: of merging with the square of the tokens merged, of halves alike in all blocks."""
    merging = tuple(MergeLoss(one, tokens * sum(one) ** 2) for one in schedules(arch))
    gone = tuple(
        HalfLoss(block, half, halves * (1 + block)) for block in range(arch.depth) for half in (0, 1)
    )
    return replace(synthetic(arch), tokens=merging, halves=gone)


@pytest.mark.parametrize("gmacs", [1.2, 1.02, 0.82, 0.58, 0.35])
def test_budgets_are_met_from_below_and_predict_no_more_than_widths_alone(gmacs: float) -> None:
    found = measured(DEIT_TINY)
    chosen = allocate(DEIT_TINY, found, Budget(gmacs=gmacs))
    assert chosen.got == cost(chosen.arch).gmacs and (1 - WITHIN) * gmacs <= chosen.got <= gmacs
    assert chosen.loss == pytest.approx(found.loss(chosen.arch))
    widths = allocate(DEIT_TINY, found, Budget(gmacs=gmacs, tokens=False, depth=False))
    assert not widths.arch.merges and all(block.heads and block.mlp for block in widths.arch.blocks)
    assert chosen.loss <= widths.loss * 1.01


def test_what_is_cheap_is_taken() -> None:
    harmless = measured(DEIT_TINY, tokens=1e-9)
    assert allocate(DEIT_TINY, harmless, Budget(gmacs=0.9)).arch.merges
    dear = measured(DEIT_TINY, tokens=1.0)
    assert not allocate(DEIT_TINY, dear, Budget(gmacs=0.9)).arch.merges
    shallow = allocate(DEIT_TINY, measured(DEIT_TINY, tokens=1.0, halves=1e-9), Budget(gmacs=0.9)).arch
    assert any(not block.heads or not block.mlp for block in shallow.blocks)


def test_switches_and_parameters() -> None:
    found = measured(DEIT_TINY, tokens=1e-9, halves=1e-9)
    for budget in (Budget(gmacs=0.9, tokens=False), Budget(params=4e6)):
        assert not allocate(DEIT_TINY, found, budget).arch.merges
    whole = allocate(DEIT_TINY, found, Budget(gmacs=0.9, depth=False)).arch
    assert whole.merges and all(block.heads and block.mlp for block in whole.blocks)


def test_tokens_alone_come_close_to_the_budget() -> None:
    found = measured(DEIT_TINY)
    fixed = replace(found, blocks=tuple(_unnarrowed(block) for block in DEIT_TINY.blocks), halves=())
    for gmacs in (1.1, 0.82, 0.58):
        chosen = allocate(DEIT_TINY, fixed, Budget(gmacs=gmacs))
        assert tuple(replace(block, merge=0) for block in chosen.arch.blocks) == DEIT_TINY.blocks
        assert (1 - WITHIN) * gmacs <= chosen.got <= gmacs


def _unnarrowed(block: BlockWidths):
    from pruning.budget import dense_curves

    return dense_curves(block)


def test_candidates_merge_differently_and_the_best_comes_first() -> None:
    few = candidates(DEIT_TINY, measured(DEIT_TINY), Budget(gmacs=0.7), most=4)
    assert len({merges_of(one.arch) for one in few}) == len(few) > 1
    assert few[0].loss == min(one.loss for one in few)
    assert few[0] == allocate(DEIT_TINY, measured(DEIT_TINY), Budget(gmacs=0.7))


@pytest.mark.parametrize("gmacs", [1.02, 0.71, 0.45])
def test_predicted_damage_counts_widths_where_fewer_tokens_merge_than_planned(gmacs: float) -> None:
    found = measured(DEIT_TINY)
    for one in candidates(DEIT_TINY, found, Budget(gmacs=gmacs), most=5):
        assert one.loss >= replace(found, tokens=()).loss(one.arch) - 1e-12


def test_starts_are_never_dearer_and_worse_than_another() -> None:
    begins = starts(DEIT_TINY, measured(DEIT_TINY), "gmacs", True, True)
    prices = [cost(one.arch).macs for one in begins]
    losses = [one.loss for one in begins]
    assert prices == sorted(prices) and losses == sorted(losses, reverse=True) and losses[-1] == 0


def test_the_frontier_is_what_choosing_loses_before_it_widens() -> None:
    menu = cost_menu(with_merges(DEIT_TINY, 13), offers(DEIT_TINY, synthetic(DEIT_TINY), 8), "gmacs")
    least = frontier(menu)
    for share in (0.0, 0.2, 0.5, 0.9, 1.0):
        limit = menu.lowest + share * (menu.dense - menu.lowest)
        lost = sum(item.losses[place] for item, place in zip(menu.items, choose(menu, limit), strict=True))
        assert lost <= least(limit) + 1e-12
        assert lost >= 0.8 * least(min(menu.dense, limit + 0.02 * menu.dense)) - 1e-12
    assert np.isinf(least(0.9 * menu.lowest))


def test_prices_of_a_start_are_those_of_the_whole_model() -> None:
    start = with_merges(DEIT_TINY, (0, 0, 30, 30, 0, 0, 20, 0, 0, 5, 0, 0))
    menu = cost_menu(start, offers(DEIT_TINY, synthetic(DEIT_TINY), 8), "gmacs")
    for item in menu.items[::5]:
        blocks = list(start.blocks)
        blocks[item.block] = replace(blocks[item.block], **{item.structure: item.widths[-1]})
        assert menu.dense - item.savings[-1] == cost(replace(start, blocks=tuple(blocks))).macs


def test_the_trade_off_is_what_budgets_predict() -> None:
    found = measured(DEIT_TINY)
    line = trade_off(DEIT_TINY, found, points=9)
    for point in line[1:-1]:
        assert allocate(DEIT_TINY, found, Budget(gmacs=point.got)).loss == pytest.approx(point.loss, rel=0.2)
    assert [p.loss for p in line] == sorted((p.loss for p in line), reverse=True) and line[-1].loss == 0


@pytest.mark.parametrize("arch", [DEIT_TINY, TINY, *SHORTER.values()], ids=str)
def test_schedules_fit_the_model(arch: Architecture) -> None:
    found = schedules(arch)
    assert len(set(found)) == len(found)
    for merges in found:
        assert merges_of(with_merges(arch, merges)) == merges and any(merges)
        if arch.pool == "token":
            assert merges[-1] == 0
        assert all(not count for count, block in zip(merges, arch.blocks, strict=True) if not block.heads)


def test_shares_add_up() -> None:
    assert shared_out(10, [1, 1, 1]) == (4, 3, 3)
    assert shared_out(7, [0, 2, 1, 0]) == (0, 5, 2, 0)
    for total in range(50):
        assert sum(shared_out(total, [3, 1, 4, 1, 5])) == total
