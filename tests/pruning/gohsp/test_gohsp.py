from __future__ import annotations

import shlex
from dataclasses import replace
from typing import Any

import pytest
import torch

from analysis.data.open import open_data
from analysis.data.scenes import CLASSES
from analysis.heads.graph import similarities
from analysis.measure.cost import cost
from analysis.models.load import LoadedModel
from analysis.models.preprocess import Preprocess
from analysis.vit import BlockWidths, ViT
from pruning.cli.main import main
from pruning.criteria.head_graph import GraphOptions, counts_together, rank_heads
from pruning.criteria.registry import CRITERIA
from pruning.cut.plan import Plan
from pruning.cut.ratios import Ratios, shrink
from pruning.cut.surgery import cut, mask
from pruning.gohsp import method as gohsp_module
from pruning.gohsp.admm import Admm, AdmmOptions, constrained
from pruning.gohsp.method import STRUCTURING, GohspOptions, TrainingData, gohsp, gohsp_target, sparsity_target
from pruning.jobs.inputs import image_sets, prepare
from pruning.jobs.prune_job import Job
from pruning.jobs.run_prune import make_smaller, prune
from pruning.methods import METHODS
from pruning.progress import Monitor
from pruning.training.distillation import Distillation, Recovery
from pruning.training.objective import Objective
from tests.support.models import TINY, VARIANTS, batches, on_variants, random_images, random_vit

UNTRAINED = GohspOptions(epochs=0)
ARCH = replace(TINY, image_size=(64, 64), patch_size=(16, 16))


def dense(seed: int = 0) -> LoadedModel:
    return LoadedModel(
        random_vit(ARCH, seed), Preprocess((64, 64), labels=CLASSES), "demo", "made for a test"
    )


# ---- ranking


def stationary_twin(weights: torch.Tensor, teleport: float) -> torch.Tensor:
    """pi (P - I) = 0 with sum 1, as a linear system; P in loops."""
    heads = len(weights)
    chain = torch.zeros(heads, heads, dtype=torch.float64)
    for i in range(heads):
        total = sum(float(weights[i, j]) for j in range(heads) if j != i)
        for j in range(heads):
            step = float(weights[i, j]) / total if i != j else 0.0
            chain[i, j] = (1 - teleport) * step + teleport / heads
    system = torch.cat([(chain.T - torch.eye(heads, dtype=chain.dtype)), torch.ones(1, heads).double()])
    right = torch.zeros(heads + 1, 1, dtype=chain.dtype)
    right[-1] = 1
    return torch.linalg.lstsq(system, right).solution[:, 0]


@pytest.mark.parametrize("keep", ["central", "distinct"])
@pytest.mark.parametrize("kind", ["cosine", "cka", "attention", "predictability"])
def test_scores_are_the_stationary_mass_times_heads(kind: str, keep: str) -> None:
    model = random_vit(VARIANTS["uneven"])
    data = batches(random_images(model.arch))
    got = rank_heads(model, data, GraphOptions(similarity=kind, keep=keep, teleport=0.2))
    for scores, weights in zip(got, similarities(model, data, kind), strict=True):
        expected = len(weights) * stationary_twin(weights, 0.2)
        torch.testing.assert_close(scores, expected if keep == "central" else -expected)


@pytest.mark.parametrize(
    ("keep", "counts"), [(3, (1, 1, 1)), (4, (2, 1, 1)), (6, (3, 1, 2)), (7, (3, 2, 2)), (8, (3, 3, 2))]
)
def test_one_ranking_over_all_blocks_keeps_one_of_each(keep: int, counts: tuple[int, ...]) -> None:
    scores = [torch.tensor(row) for row in ([3.0, 5.0, 4.0], [0.2, 0.1, 0.05], [0.3, 3.5])]
    assert counts_together(scores, keep) == counts


def test_equal_scores_go_by_their_place() -> None:
    assert counts_together([torch.ones(3)] * 3, 5) == (3, 1, 1)
    assert counts_together([torch.ones(3), torch.ones(0), torch.ones(3)], 4) == (3, 0, 1)


@pytest.mark.parametrize("keep", [1, 7])
def test_impossible_counts_are_refused(keep: int) -> None:
    with pytest.raises(ValueError, match=f"of 6 parts in 2 blocks 2 to 6 can stay, got {keep}"):
        counts_together([torch.ones(3)] * 2, keep)


def test_the_criterion_ranks_heads_only() -> None:
    criterion = CRITERIA["head-graph"]
    model = random_vit(TINY)
    data = batches(random_images(TINY))
    scores = criterion.score(model, data, criterion.options())
    for got, expected in zip(scores.heads, rank_heads(model, data), strict=True):
        torch.testing.assert_close(got, expected)
    assert criterion.ranks == ("heads",) and criterion.options().calibration_images == 64
    assert not any(part.any() for part in (*scores.qk, *scores.v, *scores.mlp, scores.embed))
    with pytest.raises(ValueError, match="Head graph ranks heads only and cannot choose what goes of mlp"):
        Job("m", "d", "head-graph", ratios=Ratios(mlp=0.5)).target(TINY)


@pytest.mark.parametrize("method", ["gohsp", "head-graph"])
def test_the_interface_says_when_the_chain_adds_nothing(method: str) -> None:
    assert "symmetric" in METHODS[method].explanation and "adds nothing" in METHODS[method].explanation


# ---- targets


@on_variants("plain", "uneven", "layer scale, no prefix in pos_embed")
@pytest.mark.parametrize("align", [1, 4])
@pytest.mark.parametrize("sparsity", [0.1, 0.3, 0.5])
def test_a_sparsity_is_met_and_no_wider_widths_would_do(sparsity: float, align: int, variant: ViT) -> None:
    arch = variant.arch
    start = shrink(arch, Ratios(heads=0.3, qk=0.2))
    try:
        target = sparsity_target(arch, start, sparsity, align)
    except ValueError as error:
        assert "cannot be reached" in str(error)
        everything = Ratios(
            v=tuple(1 - 1 / w.v for w in arch.blocks), mlp=tuple(1 - 1 / w.mlp for w in arch.blocks)
        )
        least = shrink(arch, everything, align).blocks
        pairs = zip(start.blocks, least, strict=True)
        blocks = tuple(replace(old, v=new.v, mlp=new.mlp) for old, new in pairs)
        assert cost(replace(start, blocks=blocks)).params > (1 - sparsity) * cost(arch).params
        return
    limit = (1 - sparsity) * cost(arch).params
    assert cost(target).params <= limit
    wider = []
    for step in range(1000):  # the widths of every ratio, from the widest down
        ratio = step / 1000
        rest = Ratios(
            v=tuple(min(ratio, 1 - 1 / w.v) for w in arch.blocks),
            mlp=tuple(min(ratio, 1 - 1 / w.mlp) for w in arch.blocks),
        )
        pairs = zip(start.blocks, shrink(arch, rest, align).blocks, strict=True)
        wider.append(replace(start, blocks=tuple(replace(a, v=b.v, mlp=b.mlp) for a, b in pairs)))
    first = next(arch for arch in wider if cost(arch).params <= limit)
    assert cost(target).params >= cost(first).params
    for before, after in zip(start.blocks, target.blocks, strict=True):
        assert (after.heads, after.qk) == (before.heads, before.qk)


def test_forty_percent_of_a_vit_small() -> None:
    widths = BlockWidths(6, 64, 64, 1536)
    arch = replace(TINY, image_size=(32, 32), patch_size=(4, 4), embed_dim=384, blocks=(widths,) * 12)
    target = gohsp_target(arch, Ratios(heads=1 / 3), 1, GohspOptions(sparsity=0.4))
    assert 0.595 < cost(target).params / cost(arch).params <= 0.6
    assert {w.heads for w in target.blocks} == {4} and len({w.v for w in target.blocks}) == 1


def test_a_sparsity_that_the_heads_alone_exceed_takes_nothing_else() -> None:
    start = shrink(TINY, Ratios(heads=0.6))
    assert sparsity_target(TINY, start, 0.05) == start


@pytest.mark.parametrize(
    ("ratios", "options", "message"),
    [
        (
            Ratios(embed=0.1),
            {},
            "GOHSP does not prune the residual stream: set embed to 0, or use a method that does",
        ),
        (Ratios(v=0.1), {"sparsity": 0.3}, "set either sparsity or the ratios v and mlp"),
        (Ratios(mlp=(0.1, 0.0)), {"sparsity": 0.3}, "set either sparsity or the ratios v and mlp"),
        (Ratios(), {"sparsity": 0.95}, r"sparsity 0.95 cannot be reached: with these heads at least \d+%"),
    ],
)
def test_impossible_targets_are_refused(ratios: Ratios, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gohsp_target(TINY, ratios, 1, GohspOptions(**options))


def test_global_scope_removes_as_many_heads_in_all() -> None:
    heads = [torch.tensor([3.0, 2.0, 1.0]), torch.tensor([0.3, 0.2, 0.1])]
    for scope, counts in (("block", [2, 2]), ("global", [3, 1])):
        options = GohspOptions(scope=scope, sparsity=0.3)
        target = gohsp_target(TINY, Ratios(heads=0.34), 1, options, heads=heads)
        assert [widths.heads for widths in target.blocks] == counts
        assert cost(target).params <= 0.7 * cost(TINY).params


# ---- the whole method


@pytest.mark.parametrize("scope", ["block", "global"])
def test_without_training_it_ranks_projects_and_cuts(scope: str, variant: ViT) -> None:
    images = random_images(variant.arch)
    before = {name: value.clone() for name, value in variant.state_dict().items()}
    options = replace(UNTRAINED, scope=scope, keep="distinct")
    ratios = Ratios(heads=0.4, v=0.25, mlp=0.5, qk=0.3)
    small, plan = gohsp(variant, batches(images), ratios, options=options)
    torch.testing.assert_close(small(images), cut(variant, plan)(images))
    torch.testing.assert_close(small(images), mask(variant, plan)(images), atol=1e-5, rtol=1e-5)
    wanted = shrink(variant.arch, ratios)
    assert sum(w.heads for w in small.arch.blocks) == sum(w.heads for w in wanted.blocks)
    assert [(w.qk, w.v, w.mlp) for w in small.arch.blocks] == [(w.qk, w.v, w.mlp) for w in wanted.blocks]
    scores = rank_heads(variant, batches(images), options)
    for kept, row in zip(plan.blocks, scores, strict=True):
        gone = [h for h in range(len(row)) if h not in kept.heads]
        assert not gone or min(row[h] for h in kept.heads) >= max(row[h] for h in gone)
    for name, value in variant.state_dict().items():
        assert torch.equal(value, before[name])


def test_without_heads_to_remove_no_image_is_read(tiny: ViT) -> None:
    small, plan = gohsp(tiny, [], Ratios(mlp=0.5), options=UNTRAINED)
    assert small.arch == shrink(TINY, Ratios(mlp=0.5))
    assert [kept.heads for kept in plan.blocks] == [(0, 1, 2)] * 2
    with pytest.raises(ValueError, match="head graph needs calibration images"):
        gohsp(tiny, [], Ratios(heads=0.4), options=UNTRAINED)


def test_keeping_everything_is_the_model_itself(tiny: ViT, images: torch.Tensor) -> None:
    small, plan = gohsp(tiny, [], Ratios(), options=UNTRAINED)
    assert plan == Plan.keep_all(TINY)
    torch.testing.assert_close(small.state_dict(), tiny.state_dict(), rtol=0, atol=0)
    torch.testing.assert_close(small(images), tiny(images))


def test_training_without_images_is_refused(tiny: ViT) -> None:
    with pytest.raises(ValueError, match="1 epochs need training images: provide some, or set epochs=0"):
        gohsp(tiny, [], Ratios(mlp=0.5))


class Curves(Monitor):
    def __init__(self) -> None:
        self.points: list[tuple[int, dict[str, float]]] = []

    def metrics(self, step: int, **values: float) -> None:
        self.points.append((step, values))


def test_training_pulls_the_model_into_the_structure() -> None:
    given = dense()
    images = open_data("demo", given.preprocess, 10, "train").subset(range(32))
    few = [(torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(1)), torch.arange(4))]
    options = GohspOptions(epochs=4, batch=8, lr=5e-3, distill=False, scope="global")
    curves = Curves()
    lesson = TrainingData(images, given.preprocess, test=images.subset(range(4)))
    before = {name: value.clone() for name, value in given.model.state_dict().items()}
    small, plan = gohsp(given.model, few, Ratios(heads=0.34, v=0.25, mlp=0.5), 1, options, lesson, curves)
    assert small.arch == plan.architecture(ARCH) and not small.training
    assert sum(widths.heads for widths in small.arch.blocks) == 4
    for name, value in given.model.state_dict().items():
        assert torch.equal(value, before[name])
    named = {name: [v[name] for _, v in curves.points if name in v] for _, v in curves.points for name in v}
    assert named["constraint_gap"][-1] < 0.5 * named["constraint_gap"][0]
    assert named["primal_residual"][-1] < 0.05 and named["exchanged"][-1] < 0.01 and "top1" in named
    cut_untrained = cut(given.model, plan)
    untrained, trained = (model.get_parameter("head.weight") for model in (cut_untrained, small))
    assert not torch.equal(untrained, trained)


def test_updates_are_spread_over_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """40 images in batches of 8 for 4 epochs are 20 steps."""
    seen: list[Admm] = []

    def stop(model: ViT, images, preprocess, objective: Admm, options, **rest: object) -> ViT:
        seen.append(objective)
        assert rest["seed"] == 5 and options.epochs == 4 and options.lr == 0.25
        return model

    monkeypatch.setattr(gohsp_module, "train", stop)
    given = dense()
    images = open_data("demo", given.preprocess, 10, "train").subset(range(40))
    options = GohspOptions(epochs=4, batch=8, updates=5, settle=0.25, pull=3.0, dual=True, lr=0.25)
    gohsp(given.model, [], Ratios(mlp=0.5), 1, options, TrainingData(images, given.preprocess, 5))
    assert seen[-1].options == AdmmOptions(20, 5, 0.25, 3.0, True)
    assert isinstance(seen[0].inner, Distillation)
    options = GohspOptions(epochs=4, batch=8, lr=0.25, distill=False)
    gohsp(given.model, [], Ratios(mlp=0.5), 1, options, TrainingData(images, given.preprocess, 5))
    assert type(seen[-1].inner) is Objective
    lesson = TrainingData(images, given.preprocess, 5, recipe=Recovery(epochs=4, batch=4, lr=0.25, soft=0.3))
    gohsp(given.model, [], Ratios(mlp=0.5), 1, GohspOptions(updates=5), lesson)  # a recipe says it all
    assert seen[-1].options.steps == 40 and isinstance(seen[-1].inner, Distillation)
    assert seen[-1].inner.options == lesson.recipe


def test_what_was_trained_is_what_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """The plan follows the weights after training, not those before it."""
    trained = random_vit(ARCH, seed=8)
    monkeypatch.setattr(gohsp_module, "train", lambda *_, **__: trained)
    given = dense()
    lesson = TrainingData(open_data("demo", given.preprocess, 10, "train").subset(range(8)), given.preprocess)
    _, plan = gohsp(given.model, [], Ratios(mlp=0.5), 1, GohspOptions(), lesson)
    fresh, expected = gohsp(random_vit(ARCH, seed=8), [], Ratios(mlp=0.5), options=UNTRAINED)
    assert plan == expected
    assert not all(
        torch.equal(a, b) for a, b in zip(fresh.parameters(), given.model.parameters(), strict=False)
    )
    assert constrained(trained)


# ---- as a method of the command line


def job(**options: object) -> Job:
    return Job(
        "demo",
        "demo",
        "gohsp",
        ratios=Ratios(heads=0.34, v=0.25, mlp=0.5),
        options=tuple(options.items()),  # type: ignore[arg-type]
        limit=20,
    )


def test_an_untrained_job_end_to_end() -> None:
    outcome = prune(job(epochs=0, images=8), dense=dense())
    assert outcome.pruned.model.arch == shrink(ARCH, Ratios(heads=0.34, v=0.25, mlp=0.5))
    assert outcome.plan is not None
    assert outcome.report()["params_after"] == sum(p.numel() for p in outcome.pruned.model.parameters())


def test_a_trained_job_end_to_end() -> None:
    told: list[str] = []
    wanted = replace(job(epochs=1, images=8, train_images=16, batch=8, updates=2), ratios=Ratios(heads=0.34))
    wanted = replace(wanted, options=(*wanted.options, ("sparsity", 0.15)))
    outcome = prune(wanted, dense=dense(), progress=lambda what, share: told.append(what))
    assert cost(outcome.pruned.model.arch).params <= 0.85 * cost(ARCH).params
    assert outcome.pruned.model.arch == wanted.target(ARCH)
    assert "Ranking heads" in told and STRUCTURING in told and "Training" not in told
    assert outcome.report()["fine_tuned"] is True


def test_a_sparsity_alone_is_something_to_remove() -> None:
    options = (("epochs", 0), ("sparsity", 0.1))
    outcome = prune(Job("demo", "demo", "gohsp", options=options, limit=10), dense=dense())
    assert cost(outcome.pruned.model.arch).params <= 0.9 * cost(ARCH).params
    with pytest.raises(ValueError, match="nothing to remove"):
        prune(Job("demo", "demo", "gohsp", limit=10), dense=dense())


def test_a_dense_accuracy_on_other_images_is_measured_anew() -> None:
    outcome = prune(job(epochs=0, images=8), dense=dense())
    other = prune(replace(job(epochs=0, images=8), limit=30), dense=dense(), before=outcome.before)
    assert other.before.images == other.after.images == 30
    assert prune(job(epochs=0, images=8), dense=dense(), before=outcome.before).before is outcome.before


def test_a_job_that_trains_is_tested_on_images_it_did_not_see(tmp_path) -> None:
    from PIL import Image

    for name in CLASSES:
        (tmp_path / name).mkdir()
        for number in range(4):
            Image.new("RGB", (64, 64), (20 * number, 40, 90)).save(tmp_path / name / f"{number}.png")
    wanted = replace(job(epochs=1), data=str(tmp_path), limit=None)
    given = dense()
    _, test = image_sets(wanted, given)
    train = open_data(str(tmp_path), given.preprocess, 10, "train")
    names = {train.item_name(i) for i in range(len(train))}
    assert len(test) == 20 and not names & {test.item_name(i) for i in range(len(test))}
    assert wanted.trains and not replace(wanted, options=(("epochs", 0),)).trains


def test_budgets_are_refused() -> None:
    from pruning.budget.allocate import Budget

    asked = Job("demo", "demo", "gohsp", budget=Budget(gmacs=0.001), limit=10)
    with pytest.raises(
        ValueError, match="GOHSP cannot be used with a budget, because it cannot narrow a single block"
    ):
        prune(asked, dense=dense())


def test_it_has_no_scores_to_give() -> None:
    run = prepare(job(), dense=dense())
    assert run.method.scores(run.task) is None
    assert make_smaller(prepare(job(epochs=0), dense=dense()))[1] is not None


def test_the_command_shown_is_the_same_job(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    jobs = []

    def stop(given: Job, **_: object) -> None:
        jobs.append(given)
        raise ValueError("far enough")

    monkeypatch.setattr("pruning.cli.prune.prune", stop)
    wanted = job(scope="global", similarity="cosine", distill=False, sparsity=0.4, epochs=3)
    wanted = replace(wanted, ratios=Ratios(heads=0.33))
    assert main(shlex.split(wanted.command(str(tmp_path / "out")))[3:]) == 2
    assert jobs == [wanted]
    assert Job.from_json(wanted.to_json()) == wanted
