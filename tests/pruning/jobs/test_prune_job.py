from __future__ import annotations

import json
import shlex
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from analysis.measure.cost import cost
from analysis.measure.evaluate import Batches
from analysis.models.load import LoadedModel
from analysis.vit import Architecture, Block, BlockWidths, ViT
from pruning.budget.allocate import Budget
from pruning.budget.curves import BUDGETED_STRUCTURES, Narrow, Sensitivities
from pruning.budget.latency_menu import LatencyTable
from pruning.budget.sensitivity import measure_sensitivities, measured_widths, narrow_by_scores
from pruning.cli.main import main
from pruning.criteria.registry import CRITERIA
from pruning.criteria.snp import SnpOptions
from pruning.cut.head_locks import HeadLocks
from pruning.cut.ratios import Ratios, shrink
from pruning.cut.shorter import unmerged
from pruning.jobs.inputs import image_sets, prepare
from pruning.jobs.prune_job import Job, method_options
from pruning.jobs.run_prune import make_smaller, prune
from pruning.jobs.solve_budget import solve, solve_all
from pruning.jobs.survey import surveyed
from pruning.methods import METHODS
from pruning.methods.selection import Selection
from pruning.options import Value
from pruning.projection.steering import steer
from tests.support.jobs import ARCH, BUDGET, dense
from tests.support.models import TINY, random_vit
from tests.support.training import PREPROCESS, image_set

JOB = Job(
    model="demo",
    data="demo",
    ratios=Ratios(qk=0.5, mlp=(0.25, 0.5)),
    options=(("gamma", 2), ("images", 8)),
    limit=20,
)


def test_survives_json_and_hashes() -> None:
    others = Job("m", "d", preset="snp-deit-tiny", weights="w", calibration="c", align=8, seed=3)
    for job in (JOB, others, BUDGET, replace(BUDGET, budget=Budget(ms=3.5, batch=8))):
        assert Job.from_json(job.to_json()) == job
        assert hash(Job.from_json(job.to_json())) == hash(job)


def test_options_reach_the_method() -> None:
    assert JOB.method_options == SnpOptions(gamma=2, images=8)
    assert replace(JOB, method="l2", options=()).method_options is not None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "magic"}, "there is no method 'magic'; there are snp, l1, l2, gm, taylor, "),
        ({"options": (("beta", 1),)}, "method snp has no option 'beta'; it has gamma, images"),
        ({"method": "l1"}, "method l1 has no option 'gamma'; it has group"),
        ({"method": "gm"}, "method gm has no option 'gamma'; it has none"),
        ({"options": (("gamma", -5),)}, "gamma must be a whole number from 0 to 1024"),
        ({"preset": "snp-deit-tiny"}, "a preset or ratios, not both"),
        ({"limit": 0}, "limit must be at least 1"),
        ({"budget": Budget(gmacs=1.0)}, "a budget, or ratios or a preset, not both"),
        ({"ratios": Ratios(), "preset": "snp-deit-tiny", "budget": Budget(gmacs=1.0)}, "a budget, or ratios"),
    ],
)
def test_impossible_jobs_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(JOB, **change)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "this is not JSON"),
        ("[]", "this must be an object, got a list"),
        ("{}", "`ratios` is missing"),
        ('{"ratios": {}, "options": []}', "`model` is missing"),
        ('{"model": "m", "data": "d", "ratios": {"qk": 2}, "options": []}', "`ratios`: ratio qk must be at"),
    ],
)
def test_bad_json_is_refused(text: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=f"^{sentence}"):
        Job.from_json(text)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"align": "8"}, "`align` must be a whole number, got text"),
        ({"compensate": "no"}, "`compensate` must be true or false, got text"),
        ({"model": 5}, "`model` must be text, got a whole number"),
        ({"limit": 20.0}, "`limit` must be a whole number or null, got a number"),
        ({"seed": True}, "`seed` must be a whole number, got true or false"),
        ({"seed": 10**30}, "`seed` must be a number of at most 64 bits"),
        ({"ratios": 0.5}, "`ratios` must be an object, got a number"),
        ({"budget": 1.0}, "`budget` must be an object or null, got a number"),
        ({"locks": ((0, 1),)}, "`locks` must be an object, got a list"),
        (
            {"options": (("gamma", None),)},
            r"`options\[0\]\[1\]` must be true or false, a whole number, a num",
        ),
        ({"options": (("gamma", "2"),)}, "gamma must be a whole number from 0 to 1024, got '2'"),
        ({"recovery": (("lr", "fast"),)}, "lr must be a number from"),
        ({"recovery": {}}, "`recovery` must be a list or null, got an object"),
    ],
)
def test_what_the_command_line_and_pages_pass_in_is_checked(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=f"^{sentence}"):
        replace(JOB, **change)


def test_the_command_shown_is_the_same_job(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    jobs = []

    def stop(job: Job, **_: object) -> None:
        jobs.append(job)
        raise ValueError("far enough")

    monkeypatch.setattr("pruning.cli.prune.prune", stop)
    others = Job(
        "a b", "c", "random", weights="w.pth", preset="snp-deit-tiny", calibration="x.zip", align=8, seed=3
    )
    asked = [
        JOB,
        others,
        BUDGET,
        replace(BUDGET, budget=Budget(gmacs=0.1), align=1),
        replace(BUDGET, budget=Budget(ms=3.5, batch=8)),
        replace(BUDGET, budget=Budget(gmacs=0.1), skip_unread=True),
        replace(JOB, align=8, skip_unread=True),
    ]
    for job in asked:
        assert main(shlex.split(job.command(str(tmp_path / "out")))[3:]) == 2
    assert jobs == asked


def test_magnitude_may_measure_whole_groups() -> None:
    """The option reaches the criterion by its name, and changes what is chosen."""
    rows = Job("demo", "demo", "l2", ratios=Ratios(mlp=0.5), limit=20)
    groups = replace(rows, options=method_options("l2", [("group", "on")]))
    assert "--option group=True" in groups.command()
    given = dense()
    plans = [make_smaller(prepare(job, dense=given)).plan for job in (rows, groups)]
    assert None not in plans and plans[0] != plans[1]


def test_calibration_and_test_images_are_disjoint() -> None:
    calibration, test = image_sets(JOB, dense())
    assert len(test) == 20
    assert not {calibration.item_name(i) for i in range(len(calibration))} & {
        test.item_name(i) for i in range(len(test))
    }


def test_prune_end_to_end() -> None:
    told: list[tuple[str, float]] = []
    given = dense()
    outcome = prune(JOB, dense=given, progress=lambda what, share: told.append((what, share)))
    assert outcome.pruned.model.arch == JOB.target(ARCH)
    assert outcome.pruned.preprocess == given.preprocess
    assert outcome.before.labels == outcome.after.labels
    report = outcome.report()
    assert report["images"] == 20 and report["fine_tuned"] is False
    assert report["params_after"] == sum(p.numel() for p in outcome.pruned.model.parameters())
    assert report["top1_low_after"] <= report["top1_after"] <= report["top1_high_after"]
    for stage in ("Scoring", "Evaluating the dense model", "Evaluating the pruned model"):
        shares = [share for what, share in told if what == stage]
        assert shares[0] == 0 and shares[-1] == 1 and shares == sorted(shares)
    again = prune(JOB, dense=given, before=outcome.before)
    assert again.plan == outcome.plan
    assert again.after.predictions == outcome.after.predictions


def test_a_projection_runs_as_a_method_and_has_no_plan() -> None:
    ratios = Ratios(qk=0.5, v=0.25, mlp=0.25)
    job = Job("demo", "demo", "spectral", ratios=ratios, options=(("images", 8),), limit=20)
    told: list[str] = []
    outcome = prune(job, dense=dense(), progress=lambda what, share: told.append(what))
    assert outcome.plan is None
    assert outcome.pruned.model.arch == job.target(ARCH)
    assert outcome.report()["params_after"] == sum(p.numel() for p in outcome.pruned.model.parameters())
    assert "Projecting" in told
    run = prepare(job, dense=dense())
    assert run.method.scores(run.task) is None


def test_the_estimate_of_a_narrower_embedding_is_what_comes_out() -> None:
    """It leaves norms without a bias, for which the estimate must not count parameters."""
    ratios = Ratios(qk=0.5, embed=0.25)
    job = Job("demo", "demo", "spectral", ratios=ratios, options=(("images", 8),), limit=20)
    small = prune(job, dense=dense()).pruned.model
    assert small.arch == job.target(ARCH) != shrink(ARCH, ratios)
    assert cost(job.target(ARCH)).params == sum(p.numel() for p in small.parameters())
    plain = replace(job, ratios=Ratios(qk=0.5))
    assert plain.target(ARCH) == shrink(ARCH, Ratios(qk=0.5))
    with pytest.raises(ValueError, match="without a classifier cannot be rotated"):
        job.target(replace(ARCH, num_classes=0))


def test_a_budget_is_solved_on_the_way_and_reported() -> None:
    asked = Budget(gmacs=0.85 * cost(ARCH).gmacs, images=8)
    job = replace(BUDGET, budget=asked, align=2)
    told: list[str] = []
    given = dense()
    outcome = prune(job, dense=given, progress=lambda what, share: told.append(what))
    assert outcome.allocation is not None and outcome.plan is not None
    assert outcome.pruned.model.arch == outcome.allocation.arch
    assert unmerged(outcome.pruned.model.arch) == outcome.plan.architecture(ARCH)
    report = outcome.report()
    budget = report["budget"]
    assert budget["kind"] == "gmacs" and budget["asked"] == asked.gmacs
    assert budget["got"] == report["gmacs_after"]
    assert 0.98 * budget["asked"] <= budget["got"] <= budget["asked"]
    assert [BlockWidths(**widths) for widths in budget["widths"]] == list(outcome.pruned.model.arch.blocks)
    assert budget["predicted_kl"] == outcome.allocation.loss > 0
    assert "Measuring sensitivities" in told

    found = surveyed(prepare(job, dense=given)).sensitivities
    assert found.images == 8
    assert outcome.allocation in solve_all(job, ARCH, found)
    small, plan, _ = make_smaller(prepare(job, dense=given))
    assert (small.arch, plan) == (outcome.pruned.model.arch, outcome.plan)


def test_a_budget_with_room_for_all_tokens_leaves_none_out() -> None:
    """Without the unread ones the dense model lies below what is asked, by more than may be missed."""
    asked = 0.95 * cost(ARCH).gmacs
    assert cost(replace(ARCH, skip_unread=True)).gmacs < 0.98 * asked
    budget = Budget(gmacs=asked, images=8)
    outcome = prune(replace(BUDGET, budget=budget, align=1, skip_unread=True), dense=dense())
    small = outcome.pruned.model.arch
    assert not small.skip_unread and 0.98 * asked <= cost(small).gmacs <= asked


def test_tokens_left_out_are_counted_by_a_budget_and_change_no_prediction() -> None:
    asked = 0.75 * cost(ARCH).gmacs
    budget = Budget(gmacs=asked, images=8)
    job, given = replace(BUDGET, budget=budget, align=2, skip_unread=True), dense()
    outcome = prune(job, dense=given)
    small = outcome.pruned.model
    assert small.arch.skip_unread and outcome.report()["gmacs_after"] == cost(small.arch).gmacs
    assert 0.98 * asked <= cost(small.arch).gmacs <= asked
    whole = ViT(replace(small.arch, skip_unread=False)).eval()
    whole.load_state_dict(small.state_dict())
    assert cost(whole.arch).gmacs > asked
    images = torch.stack([given.preprocess(image_sets(job, given)[1].image(i)) for i in range(8)])
    torch.testing.assert_close(small(images), whole(images), atol=1e-5, rtol=1e-5)
    assert not given.model.arch.skip_unread


FEW = (("train_images", 64), ("batch", 32))


@pytest.mark.parametrize(("method", "options"), [("snp", ()), ("spectral", ()), ("gohsp", FEW)])
def test_every_kind_of_method_can_leave_out_unread_tokens(
    method: str, options: tuple[tuple[str, Value], ...]
) -> None:
    job, given = replace(JOB, method=method, options=options, skip_unread=True), dense()
    small, _, _ = make_smaller(prepare(job, dense=given))
    assert small.arch == job.target(ARCH) and small.arch.skip_unread
    plain = replace(job, skip_unread=False).target(ARCH)
    assert replace(small.arch, skip_unread=False) == plain
    pooled = replace(ARCH, pool="avg")
    assert not job.target(pooled).skip_unread


def test_sensitivities_are_those_of_images_steered_towards_all_classes() -> None:
    job = replace(BUDGET, method="l2", budget=Budget(gmacs=0.85 * cost(ARCH).gmacs, images=8))
    given = dense()
    run = prepare(job, dense=given)
    few = run.calibration.sample(8, job.seed)
    images = torch.stack([given.preprocess(few.image(i)) for i in range(8)])
    scores = run.method.scores(run.task)
    assert scores is not None
    labels = torch.zeros(8)  # nobody reads them
    expected = measure_sensitivities(
        given.model,
        [(steer(given.model, images, 0, 1.0), labels)],
        narrow_by_scores(given.model, scores),
    )
    found = surveyed(run).sensitivities
    for mine, other in zip(found.blocks, expected.blocks, strict=True):
        for name in ("qk", "v", "mlp"):
            assert getattr(mine, name).kl == pytest.approx(getattr(other, name).kl, rel=1e-3, abs=1e-7)


def test_what_is_at_hand_is_not_measured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    job = replace(BUDGET, budget=Budget(gmacs=0.85 * cost(ARCH).gmacs, images=8), align=2)
    given = dense()
    first = prune(job, dense=given)
    monkeypatch.setattr("pruning.methods.sensitivities.measure_sensitivities", None)
    told: list[str] = []
    again = prune(job, dense=given, before=first.before, progress=lambda what, _: told.append(what))
    assert again.plan == first.plan and again.after.predictions == first.after.predictions
    assert "Measuring sensitivities" not in told and "Scoring" not in told
    smaller = replace(job, budget=Budget(params=0.8 * cost(ARCH).params, images=8))
    assert prune(smaller, dense=given, before=first.before).allocation is not None


def test_a_budget_in_ms_is_met_as_this_machine_measures_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a clock on which a model takes as long as it has parameters."""
    model, blocks = cost(ARCH).params / 1e3, cost(ARCH).blocks

    def table(arch: Architecture, batch: int, align: int, _: object) -> LatencyTable:
        whole = ARCH.blocks[0]
        shares = {
            (whole, narrowed): cost(replace(ARCH, blocks=(narrowed,))).blocks[0].params / blocks[0].params
            for name in BUDGETED_STRUCTURES
            for width in range(1, getattr(whole, name) + 1)
            for narrowed in (replace(whole, **{name: width}),)
        }
        return LatencyTable(batch, model, {whole: blocks[0].params / 1e3}, shares)

    monkeypatch.setattr("pruning.jobs.solve_budget.measure_table", table)
    monkeypatch.setattr("pruning.budget.latency.model_ms", lambda _, __, arch: cost(arch).params / 1e3)
    job = replace(BUDGET, budget=Budget(ms=0.8 * model, batch=8, images=8), align=1)
    outcome = prune(job, dense=dense())
    budget = outcome.report()["budget"]
    assert budget["batch"] == 8 and budget["got"] == cost(outcome.pruned.model.arch).params / 1e3
    assert 0.98 * budget["asked"] <= budget["got"] <= budget["asked"]
    monkeypatch.setattr("pruning.jobs.run_prune.surveyed", None)  # a time out of reach is refused before it
    with pytest.raises(ValueError, match=r"a budget for this model must be from .* ms"):
        prune(replace(job, budget=Budget(ms=2 * model, batch=8)), dense=dense())


def test_a_criterion_narrows_only_what_it_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    criterion = replace(CRITERIA["l2"], ranks=("mlp", "heads"))
    monkeypatch.setitem(METHODS, "l2", Selection(criterion))
    job = replace(BUDGET, budget=Budget(gmacs=0.95 * cost(ARCH).gmacs, images=8))
    outcome = prune(job, dense=dense())
    for before, after in zip(ARCH.blocks, outcome.pruned.model.arch.blocks, strict=True):
        assert (after.qk, after.v) == (before.qk, before.v)


@pytest.mark.parametrize("method", ["ablation", "gohsp"])
def test_methods_that_cannot_narrow_a_block_take_no_budget(method: str) -> None:
    with pytest.raises(
        ValueError, match="cannot be used with a budget, because it cannot narrow a single block"
    ):
        prune(replace(BUDGET, method=method), dense=dense())


def test_a_projection_that_narrows_blocks_takes_a_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, str, int]] = []

    def narrow(model: ViT, images: Batches, options: object, place: Path | None) -> Narrow:
        assert sum(len(labels) for _, labels in images) == 8
        inner = narrow_by_scores(model, CRITERIA["l1"].score(model, [], CRITERIA["l1"].options()))

        def noted(index: int, structure: str, width: int) -> Block:
            seen.append((index, structure, width))
            return inner(index, structure, width)

        return noted

    monkeypatch.setattr("pruning.methods.spectral.narrow_spectral", narrow)
    budget = Budget(gmacs=0.85 * cost(ARCH).gmacs, images=8)
    job = replace(BUDGET, method="spectral", budget=budget, align=2, options=(("images", 8),))
    outcome = prune(job, dense=dense())
    assert outcome.plan is None and outcome.allocation is not None
    assert outcome.pruned.model.arch == outcome.allocation.arch
    asked = [
        (index, name, width)
        for index, widths in enumerate(ARCH.blocks)
        for name in BUDGETED_STRUCTURES
        for width in measured_widths(getattr(widths, name))[1:]
    ]
    assert seen == asked


def test_the_target_of_a_budget_needs_images() -> None:
    with pytest.raises(ValueError, match="what a budget removes is found on images"):
        BUDGET.target(ARCH)


def test_without_a_budget_there_is_nothing_to_solve() -> None:
    with pytest.raises(ValueError, match="this job has no budget"):
        solve(JOB, ARCH, Sensitivities((), 0))


def test_jobs_from_before_budgets_still_load() -> None:
    old = json.loads(JOB.to_json())
    del old["budget"]
    assert Job.from_json(json.dumps(old)) == JOB


def test_nothing_to_remove_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing to remove: set a ratio above 0"):
        prune(replace(JOB, ratios=Ratios()), dense=dense())


def test_a_random_job_depends_on_its_own_seed() -> None:
    job = Job("demo", "demo", "random", ratios=Ratios(mlp=0.5), limit=4)
    plans = [prune(replace(job, options=(("seed", s),)), dense=dense()).plan for s in (0, 0, 1)]
    assert plans[0] == plans[1] != plans[2]
    assert torch.get_default_dtype() == torch.float32


def test_heads_first_then_the_method_inside_the_rest() -> None:
    """Twin: both steps by hand."""
    given = dense()
    job = Job("demo", "demo", "l2", ratios=Ratios(heads=0.34, qk=0.5), heads_by="taylor", limit=8)
    small, plan, _ = make_smaller(prepare(job, dense=given))
    alone = replace(job, method="taylor", heads_by=None, ratios=Ratios(heads=0.34))
    first, heads, _ = make_smaller(prepare(alone, dense=given))
    assert plan is not None and heads is not None
    assert [block.heads for block in plan.blocks] == [block.heads for block in heads.blocks]
    rest = replace(job, heads_by=None, ratios=Ratios(qk=0.5))
    second, _, _ = make_smaller(prepare(rest, dense=replace(given, model=first)))
    for name, value in small.state_dict().items():
        assert torch.equal(value, second.state_dict()[name])


def test_spectral_works_inside_the_heads_that_stay() -> None:
    given = dense()
    options = (("images", 8),)
    job = Job("demo", "demo", "spectral", ratios=Ratios(heads=0.34, qk=0.5), heads_by="l2", options=options)
    small, plan, _ = make_smaller(prepare(job, dense=given))
    assert plan is None
    assert [(block.heads, block.qk) for block in small.arch.blocks] == [(2, 4), (2, 4)]


def test_a_projection_tells_which_heads_stay() -> None:
    options, given = (("images", 8),), dense()
    job = Job("demo", "demo", "spectral", ratios=Ratios(heads=0.34, qk=0.5), heads_by="l2", options=options)
    job = replace(job, limit=8)
    alone = replace(job, method="l2", ratios=Ratios(heads=0.34), heads_by=None, options=())
    plan = prune(alone, dense=given).plan
    assert plan is not None
    kept = [list(block.heads) for block in plan.blocks]
    assert kept != [[0, 1], [0, 1]]
    told = prune(job, dense=given)
    assert told.plan is None and told.report()["heads"] == kept == prune(alone, dense=given).report()["heads"]
    locked = replace(job, ratios=Ratios(qk=0.5), heads_by=None, locks=HeadLocks(remove=((1, 0),)))
    assert prune(locked, dense=given).report()["heads"] == [[0, 1, 2], [1, 2]]


def test_compensation_changes_proj_and_fc2_alone() -> None:
    given = dense()
    job = Job("demo", "demo", "l2", ratios=Ratios(v=0.5, mlp=0.5))
    plain, plan, _ = make_smaller(prepare(job, dense=given))
    better, same, _ = make_smaller(prepare(replace(job, compensate=True), dense=given))
    assert same == plan
    changed = {n for n, v in better.state_dict().items() if not torch.equal(v, plain.state_dict()[n])}
    assert changed and all(".attn.proj." in name or ".mlp.fc2." in name for name in changed)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"method": "spectral", "compensate": True}, "spectral refits or trains already: leave out comp"),
        ({"heads_by": "nobody", "ratios": Ratios(heads=0.5)}, "heads can be removed first by snp"),
        ({"heads_by": "l2", "ratios": Ratios(qk=0.5)}, "heads-by needs a ratio of heads to remove"),
        (
            {"method": "gohsp", "heads_by": "l2", "ratios": Ratios(heads=0.5)},
            "gohsp ranks the heads itself: leave out heads-by",
        ),
    ],
)
def test_what_a_method_cannot_do_is_refused(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Job("demo", "demo", **values)


def test_calibrating_on_the_images_that_are_tested_is_refused(tmp_path: Path) -> None:
    """Also under another name; before anything is measured."""
    data = image_set(tmp_path)
    copied = shutil.copytree(tmp_path / "images", tmp_path / "copied")
    given = LoadedModel(random_vit(TINY), PREPROCESS, "tiny", "test")
    for other in (tmp_path / "images", copied):
        job = Job("tiny", str(tmp_path / "images"), "l1", ratios=Ratios(mlp=0.5), calibration=str(other))
        with pytest.raises(ValueError, match="share no images"):
            prune(job, dense=given)
    assert len(data) == 40
