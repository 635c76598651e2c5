"""VBP and CORP as methods: what they refuse, how VBP spreads its neurons, heads removed first, budgets."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from analysis.measure.cost import cost
from analysis.vit import Architecture
from pruning.budget.allocate import Budget
from pruning.cut.ratios import PerBlock, Ratios
from pruning.jobs.inputs import Prepared, prepare
from pruning.jobs.prune_job import Job
from pruning.jobs.run_prune import make_smaller, prune
from pruning.methods import METHODS
from tests.support.jobs import ARCH, BUDGET, dense
from tests.support.models import random_images

FEW = (("images", 12),)


def job(method: str, ratios: Ratios, **changes: Any) -> Job:
    settings: dict[str, Any] = {"options": FEW, "limit": 8}
    return Job("demo", "demo", method, ratios=ratios, **(settings | changes))


def neurons(arch: Architecture) -> list[int]:
    return [block.mlp for block in arch.blocks]


@pytest.fixture(scope="module")
def run() -> Prepared:
    return prepare(job("vbp", Ratios(mlp=0.5)), dense=dense())


@pytest.fixture(scope="module")
def ranked(run: Prepared) -> list[tuple[float, int, int]]:
    """Every neuron by its variance, the highest first: variance, block, neuron."""
    scores = run.method.scores(run.task)
    assert scores is not None
    listed = [
        (float(value), index, neuron)
        for index, block in enumerate(scores.mlp)
        for neuron, value in enumerate(block)
    ]
    return sorted(listed, reverse=True)


@pytest.mark.parametrize(
    ("method", "ratios", "message"),
    [
        (
            "vbp",
            Ratios(mlp=0.5, qk=0.5, heads=0.4),
            "VBP ranks mlp only and cannot choose what goes of qk, heads",
        ),
        (
            "corp",
            Ratios(qk=0.5, v=0.25),
            "CORP ranks qk, mlp only and cannot choose what goes of v: set these",
        ),
        ("corp", Ratios(embed=0.25), "CORP ranks qk, mlp only and cannot choose what goes of embed"),
    ],
)
def test_what_they_do_not_prune_is_refused(method: str, ratios: Ratios, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        job(method, ratios).target(ARCH)


@pytest.mark.parametrize("method", ["vbp", "corp"])
def test_they_compensate_by_themselves(method: str) -> None:
    assert METHODS[method].explanation.endswith(".") and METHODS[method].narrows
    with pytest.raises(ValueError, match=f"{method} refits or trains already: leave out compensate"):
        job(method, Ratios(mlp=0.5), compensate=True)


@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.75])
def test_vbp_ranks_all_blocks_together(
    ratio: float, run: Prepared, ranked: list[tuple[float, int, int]]
) -> None:
    """Twin: one sorted list of all neurons, cut where the ratio says."""
    kept = ranked[: round((1 - ratio) * len(ranked))]
    made = make_smaller(replace(run, job=job("vbp", Ratios(mlp=ratio))))
    assert made.plan is not None
    for index, block in enumerate(made.plan.blocks):
        assert block.mlp == tuple(sorted(neuron for _, own, neuron in kept if own == index))
    assert made.model.arch == made.plan.architecture(ARCH)
    assert sum(neurons(made.model.arch)) == len(kept)


@pytest.mark.parametrize(
    ("ratio", "options", "align", "expected"),
    [
        (0.5, (*FEW, ("scope", "block")), 1, [16, 16]),
        ((0.25, 0.5), FEW, 1, [24, 16]),
        ((0.0, 0.5), FEW, 8, [32, 16]),
    ],
)
def test_what_is_said_of_each_block_holds(
    ratio: PerBlock, options: Any, align: int, expected: list[int], run: Prepared
) -> None:
    given = job("vbp", Ratios(mlp=ratio), options=options, align=align)
    assert neurons(make_smaller(replace(run, job=given)).model.arch) == expected


def test_global_counts_are_rounded_like_other_widths(run: Prepared) -> None:
    exact = neurons(make_smaller(run).model.arch)
    aligned = neurons(make_smaller(replace(run, job=job("vbp", Ratios(mlp=0.5), align=8))).model.arch)
    assert all(
        count % 8 == 0 and abs(count - before) <= 4 for count, before in zip(aligned, exact, strict=True)
    )


@pytest.mark.parametrize("method", ["vbp", "corp"])
def test_heads_go_first_by_another_criterion(method: str) -> None:
    ratios = Ratios(heads=0.34, mlp=0.25)
    given = dense()
    made = make_smaller(prepare(job(method, ratios, heads_by="l2"), dense=given))
    assert [block.heads for block in made.model.arch.blocks] == [2, 2]
    assert made.plan is not None and made.heads is not None
    assert [kept.heads for kept in made.plan.blocks] == [kept.heads for kept in made.heads.blocks]
    assert bool(made.model(random_images(ARCH)).isfinite().all())


@pytest.mark.parametrize("method", ["vbp", "corp"])
def test_budgets_are_solved_on_what_compensated_blocks_lose(method: str) -> None:
    budget = Budget(gmacs=0.9 * cost(ARCH).gmacs, images=4)
    given = replace(BUDGET, method=method, budget=budget, align=2, options=FEW)
    outcome = prune(given, dense=dense())
    assert outcome.allocation is not None and outcome.pruned.model.arch == outcome.allocation.arch
    assert outcome.allocation.got <= budget.asked
    for block, widths in zip(outcome.pruned.model.arch.blocks, ARCH.blocks, strict=True):
        assert (block.heads, block.v) == (widths.heads, widths.v)
        assert method == "corp" or block.qk == widths.qk


def test_corp_in_a_budget_is_measured_on_other_images() -> None:
    given = replace(BUDGET, method="corp", options=(("images", 4096),))
    with pytest.raises(ValueError, match="needs calibration images that the method is not fitted on"):
        prune(given, dense=dense())


def test_a_preview_is_what_is_made(run: Prepared) -> None:
    target = run.job.target(ARCH)
    images = random_images(ARCH)
    made, seen = make_smaller(run).model, run.method.preview(run.task, target)
    torch.testing.assert_close(seen(images), made(images))
