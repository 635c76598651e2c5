from __future__ import annotations

import itertools
import json
import shlex
from dataclasses import replace

import pytest
import torch

from analysis.gates import without_heads
from analysis.measure.cost import cost
from analysis.vit import BlockWidths
from pruning.budget.allocate import Budget
from pruning.cli.main import main
from pruning.criteria.magnitude import SeedOptions, random
from pruning.cut.head_locks import HeadLocks, format_heads, parse_heads
from pruning.cut.plan import Plan
from pruning.cut.ratios import Ratios, shrink
from pruning.cut.selection import select
from pruning.cut.surgery import cut
from pruning.jobs.inputs import prepare
from pruning.jobs.prune_job import Job
from pruning.jobs.run_prune import make_smaller, prune
from pruning.options import Value
from tests.support.jobs import ARCH, BUDGET, dense
from tests.support.models import SHORTER, TINY, VARIANTS, random_images, random_vit

LOCKS = HeadLocks(keep=((1, 2),), remove=((0, 1),))
FEW = (("images", 8),)
METHODS: dict[str, tuple[tuple[str, Value], ...]] = {
    "snp": FEW,
    "l2": (),
    "taylor": FEW,
    "ablation": FEW,
    "head-graph": FEW,
    "spectral": FEW,
    "gohsp": (*FEW, ("epochs", 0)),
    "vbp": FEW,
    "corp": FEW,
}
KEEP_HEADS = ("spectral", "vbp", "corp")


# ---- the decision as data


def test_heads_are_kept_in_order_each_once() -> None:
    assert HeadLocks(keep=((3, 1), (0, 2), (3, 1))).keep == ((0, 2), (3, 1))
    assert HeadLocks(((0, 1), (2, 0))) == HeadLocks(((2, 0), (0, 1))) and not HeadLocks() and LOCKS
    assert parse_heads(format_heads(LOCKS.keep)) == LOCKS.keep and parse_heads(" 0.1, 10.12,") == (
        (0, 1),
        (10, 12),
    )
    assert parse_heads("") == ()


@pytest.mark.parametrize("text", ["3", "a.b", "1.", "-1.2", "1.2.3"])
def test_what_names_no_head_is_a_sentence(text: str) -> None:
    with pytest.raises(ValueError, match=r"a head is written BLOCK.HEAD, such as 3\.2, got"):
        parse_heads(text)


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        ((1,), r"`keep\[0\]` must be a list of 2, got 1"),
        ((1, -1), r"a head is named by block and head, numbers of at least 0, got \(1, -1\)"),
        ((True, 0), r"`keep\[0\]\[0\]` must be a whole number, got true or false"),
        ((0.0, 1), r"`keep\[0\]\[0\]` must be a whole number, got a number"),
        ("ab", r"`keep\[0\]` must be a list, got text"),
        (3, r"`keep\[0\]` must be a list, got a whole number"),
    ],
)
def test_what_is_no_head_is_refused(pair: object, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        HeadLocks(keep=(pair,))  # type: ignore[arg-type]


def test_locks_that_contradict_are_refused() -> None:
    with pytest.raises(ValueError, match=r"can be kept or removed, not both: 0\.1"):
        HeadLocks(keep=((0, 1),), remove=((0, 1), (0, 2)))
    with pytest.raises(
        ValueError, match="block 1 would lose all of its 3 heads; at least one has to be kept"
    ):
        HeadLocks(remove=((1, 0), (1, 1), (1, 2))).require_fit(TINY)
    for head in ((2, 0), (0, 3)):
        with pytest.raises(ValueError, match=r"there is no head .\.. to lock: the model has blocks 0 to 1"):
            HeadLocks(keep=(head,)).require_fit(TINY)


def test_blocks_without_attention_need_no_head() -> None:
    arch = SHORTER["without halves"]
    locks = HeadLocks(remove=((1, 0),))
    assert [block.heads for block in locks.widths(arch, arch).blocks] == [0, 2, 3, 0]
    scores = locks.order([torch.zeros(block.heads) for block in arch.blocks])
    assert scores[1].argmin() == 0 and [len(block) for block in scores] == [0, 3, 3, 0]


def test_a_job_carries_them_everywhere() -> None:
    job = Job("demo", "demo", "l2", ratios=Ratios(qk=0.5), locks=LOCKS)
    assert Job.from_json(job.to_json()) == job and hash(job) != hash(replace(job, locks=HeadLocks()))
    assert "--keep-heads 1.2 --remove-heads 0.1" in job.command()
    old = json.loads(job.to_json())
    old["locks"]["keep"] *= 2
    assert Job.from_json(json.dumps(old)) == job
    del old["locks"]
    assert Job.from_json(json.dumps(old)).locks == HeadLocks()
    with pytest.raises(ValueError, match=r"no field `locks\.hold`"):
        Job.from_json(job.to_json().replace('"keep"', '"hold"'))


def test_the_command_line_takes_them(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    seen: list[Job] = []

    def instead(job: Job, **_: object) -> None:
        seen.append(job)
        raise ValueError("enough")

    monkeypatch.setattr("pruning.cli.prune.prune", instead)
    job = Job("demo", "demo", "l2", ratios=Ratios(qk=0.5), locks=LOCKS)
    assert main(shlex.split(job.command(str(tmp_path / "out")))[3:]) == 2
    assert seen == [job]


def test_an_estimate_counts_what_is_locked_to_go(capsys: pytest.CaptureFixture[str]) -> None:
    said = []
    for words in ([], ["--remove-heads", "0.1,5.0"]):
        assert main(["estimate", "--model", "demo", "--json", *words]) == 0
        said.append(json.loads(capsys.readouterr().out))
    whole, less = said
    head = 192 * 3 * 32 + 3 * 32 + 32 * 192  # rows of q, k and v with biases, columns of proj
    assert whole["params_after"] - less["params_after"] == 2 * head
    with pytest.raises(SystemExit, match="2"):
        main(["estimate", "--model", "demo", "--keep-heads", "x"])
    assert "a head is written BLOCK.HEAD" in capsys.readouterr().err
    assert main(["estimate", "--model", "demo", "--keep-heads", "9.9"]) == 2


# ---- obeyed by selection


@pytest.mark.parametrize("seed", range(3))
def test_locked_heads_stay_and_go_whatever_their_score(seed: int) -> None:
    """Twin: of all sets of heads of the right size that obey the locks, the one with the highest sum."""
    arch = replace(TINY, blocks=(BlockWidths(6, 2, 2, 4), BlockWidths(4, 2, 2, 4)))
    scores = random(random_vit(arch), [], SeedOptions(seed=seed))
    locks = HeadLocks(keep=((0, 1), (0, 5), (1, 0)), remove=((0, 0), (1, 3)))
    for share in (0.0, 0.2, 0.5, 0.8):
        target = locks.widths(arch, shrink(arch, Ratios(heads=share)))
        plan = select(scores, arch, target, locks)
        for index, (block, widths) in enumerate(zip(plan.blocks, arch.blocks, strict=True)):
            keep = {head for b, head in locks.keep if b == index}
            gone = {head for b, head in locks.remove if b == index}
            asked = widths.heads - int(share * widths.heads + 0.5)
            count = max(len(keep), min(asked, widths.heads - len(gone)))
            values = scores.heads[index].tolist()
            allowed = (
                heads
                for heads in itertools.combinations(range(widths.heads), count)
                if keep <= set(heads) and not gone & set(heads)
            )
            assert block.heads == max(allowed, key=lambda heads: sum(values[head] for head in heads))


def test_order_leaves_all_else_as_it_was(tiny) -> None:
    scores = random(tiny, [], SeedOptions()).heads
    moved = LOCKS.order(scores)
    assert moved[1].argmax() == 2 and moved[1][2] > max(float(block.max()) for block in scores)
    assert moved[0].argmin() == 1 and moved[0][1] < min(float(block.min()) for block in scores)
    assert torch.equal(moved[0][[0, 2]], scores[0][[0, 2]]) and torch.equal(moved[1][:2], scores[1][:2])


@pytest.mark.parametrize("name", ["plain", "uneven", "registers"])
def test_the_plan_removes_what_is_locked_and_nothing_else(name: str) -> None:
    model = random_vit(VARIANTS[name])
    locks = HeadLocks(keep=((0, 2),), remove=((0, 1), (1, 0)))
    plan = locks.plan(model.arch)
    assert plan is not None and locks.left(model.arch) == plan.architecture(model.arch)
    images = random_images(model.arch)
    expected = without_heads(model, locks.remove)(images)
    torch.testing.assert_close(cut(model, plan)(images), expected, atol=1e-4, rtol=1e-4)
    assert locks.within(plan) == HeadLocks(keep=((0, 1),))
    assert HeadLocks().plan(model.arch) is None and HeadLocks().left(model.arch) == model.arch
    assert locks.within(None) == locks
    assert Plan.from_json(plan.to_json()) == plan


# ---- obeyed by every method


@pytest.mark.parametrize("method", METHODS)
def test_a_head_locked_to_go_goes_without_any_ratio(method: str) -> None:
    job = Job("demo", "demo", method, options=METHODS[method], locks=LOCKS)
    given = dense()
    small, plan, _ = make_smaller(prepare(job, dense=given))
    assert (
        [block.heads for block in small.arch.blocks]
        == [2, 3]
        == [block.heads for block in job.target(ARCH).blocks]
    )
    if plan is not None:
        assert [block.heads for block in plan.blocks] == [(0, 2), (0, 1, 2)]
        expected = without_heads(given.model, LOCKS.remove)(random_images(ARCH))
        torch.testing.assert_close(small(random_images(ARCH)), expected, atol=1e-4, rtol=1e-4)
    else:  # queries of a projection that narrows nothing are the dense ones of the heads that stay
        rows = given.model.blocks[0].attn.qkv.weight[:24].unflatten(0, (3, 8))[[0, 2]].flatten(0, 1)
        torch.testing.assert_close(small.blocks[0].attn.qkv.weight[:16], rows, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("method", [name for name in METHODS if name not in KEEP_HEADS])
def test_a_ratio_takes_the_others_first(method: str) -> None:
    """One head of three stays in each block: of block 0 not head 1, of block 1 head 2."""
    job = Job("demo", "demo", method, ratios=Ratios(heads=0.67), options=METHODS[method], locks=LOCKS)
    given = dense()
    _, plan, _ = make_smaller(prepare(job, dense=given))
    assert plan is not None
    assert [len(block.heads) for block in plan.blocks] == [1, 1]
    assert plan.blocks[0].heads != (1,) and plan.blocks[1].heads == (2,)


def test_gohsp_over_all_blocks_obeys_too() -> None:
    locks = HeadLocks(keep=((0, 0), (0, 1), (0, 2)))
    options = (*METHODS["gohsp"], ("scope", "global"))
    job = Job("demo", "demo", "gohsp", ratios=Ratios(heads=0.67), options=options, locks=locks)
    given = dense()
    _, plan, _ = make_smaller(prepare(job, dense=given))
    assert plan is not None and [len(block.heads) for block in plan.blocks] == [3, 1]


def test_heads_by_a_criterion_and_spectral_inside_the_rest() -> None:
    ratios = Ratios(heads=0.34, qk=0.5)
    locks = HeadLocks(remove=((0, 0), (0, 1)), keep=((1, 0),))
    job = Job("demo", "demo", "spectral", ratios=ratios, heads_by="l2", options=FEW, locks=locks)
    given = dense()
    small, _, _ = make_smaller(prepare(job, dense=given))
    assert [(block.heads, block.qk) for block in small.arch.blocks] == [(1, 4), (2, 4)]


@pytest.mark.parametrize("method", ["l2", "spectral"])
def test_a_budget_begins_with_what_the_locks_leave(method: str) -> None:
    begin = LOCKS.left(ARCH)
    budget = Budget(gmacs=0.9 * cost(begin).gmacs, images=4)
    options = (("images", 4),) if method == "spectral" else ()
    job = replace(BUDGET, method=method, budget=budget, align=2, options=options, locks=LOCKS)
    given = dense()
    outcome = prune(job, dense=given)
    assert outcome.allocation is not None
    assert 0.98 * budget.asked <= outcome.allocation.got <= budget.asked
    assert outcome.pruned.model.arch == outcome.allocation.arch
    assert [block.heads for block in outcome.pruned.model.arch.blocks] == [2, 3]
    if method == "l2":
        assert outcome.plan is not None and outcome.plan.blocks[0].heads == (0, 2)
        again, plan, _ = make_smaller(prepare(job, dense=given))
        assert plan == outcome.plan and again.arch == outcome.pruned.model.arch
    with pytest.raises(ValueError, match="a budget for this model must be from"):
        prune(replace(job, budget=Budget(gmacs=0.99 * cost(ARCH).gmacs, images=8)), dense=given)


def test_locks_alone_are_something_to_remove() -> None:
    job = Job("demo", "demo", "l2", locks=LOCKS, limit=4)
    outcome = prune(job, dense=dense())
    assert outcome.report()["params_after"] < outcome.report()["params_before"]
    assert outcome.report()["job"]["locks"] == {"keep": [[1, 2]], "remove": [[0, 1]]}
    with pytest.raises(ValueError, match="nothing to remove"):
        prune(replace(job, locks=HeadLocks(keep=((0, 0),))), dense=dense())
    with pytest.raises(ValueError, match="block 0 would lose all of its 3 heads"):
        prune(replace(job, locks=HeadLocks(remove=((0, 0), (0, 1), (0, 2)))), dense=dense())
