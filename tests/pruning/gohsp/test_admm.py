from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from analysis.vit import Architecture, BlockWidths, ViT
from pruning.cut.plan import Plan
from pruning.cut.ratios import Ratios, shrink
from pruning.cut.surgery import cut, mask
from pruning.gohsp.admm import Admm, AdmmOptions, Structure, constrained, hard_projection, keep_masks
from pruning.training.distillation import Distillation, Recovery
from pruning.training.objective import Objective
from tests.support.models import SHORTER, TINY, random_images, random_vit

UNREAD = torch.empty(0)  # images and labels that `Squares` does not ask for
RATIOS = Ratios(heads=(0.4, 0.0), v=0.25, mlp=(0.4, 0.6), qk=0.3)


def structure(arch: Architecture, ratios: Ratios = RATIOS, seed: int = 3) -> Structure:
    generator = torch.Generator().manual_seed(seed)
    heads = tuple(tuple(torch.rand(w.heads, generator=generator).tolist()) for w in arch.blocks)
    return Structure(arch, shrink(arch, ratios), heads)


def values(model: ViT) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in constrained(model).items()}


# ---- the projection


def groups(arch: Architecture, block: int) -> dict[str, list[list[tuple[str, Any]]]]:
    """Twin: every weight of each group by name and index, written down from the layout of `qkv`."""
    widths, prefix = arch.blocks[block], f"blocks.{block}."
    heads, keys = widths.heads, widths.heads * widths.qk

    def row(layer: str, number: int) -> list[tuple[str, Any]]:
        found: list[tuple[str, Any]] = [(f"{prefix}{layer}.weight", (number,))]
        if arch.qkv_bias or layer != "attn.qkv":
            found.append((f"{prefix}{layer}.bias", (number,)))
        return found

    def column(layer: str, number: int) -> tuple[str, Any]:
        return f"{prefix}{layer}.weight", (slice(None), number)

    pairs = [
        row("attn.qkv", h * widths.qk + i) + row("attn.qkv", keys + h * widths.qk + i)
        for h in range(heads)
        for i in range(widths.qk)
    ]
    channels = [
        [*row("attn.qkv", 2 * keys + h * widths.v + i), column("attn.proj", h * widths.v + i)]
        for h in range(heads)
        for i in range(widths.v)
    ]
    neurons = [[*row("mlp.fc1", i), column("mlp.fc2", i)] for i in range(widths.mlp)]
    return {"qk": pairs, "v": channels, "mlp": neurons}


def norm(weights: dict[str, torch.Tensor], group: list[tuple[str, Any]]) -> float:
    return math.sqrt(sum(float(weights[name][index].double().pow(2).sum()) for name, index in group))


def test_what_stays_has_the_largest_joint_norms(variant: ViT) -> None:
    arch = variant.arch
    wanted = structure(arch)
    weights = values(variant)
    projected, plan = wanted.project(weights)
    assert plan.architecture(arch) == wanted.target
    for index, (kept, widths) in enumerate(zip(plan.blocks, arch.blocks, strict=True)):
        best = sorted(range(widths.heads), key=lambda h: -wanted.heads[index][h])
        assert kept.heads == tuple(sorted(best[: wanted.target.blocks[index].heads]))
        listed = groups(arch, index)
        for name, width, chosen in (("qk", widths.qk, kept.qk), ("v", widths.v, kept.v)):
            for head, stays in zip(kept.heads, chosen, strict=True):
                norms = [norm(weights, g) for g in listed[name][head * width : (head + 1) * width]]
                order = sorted(range(width), key=lambda i: -norms[i])
                assert stays == tuple(sorted(order[: len(stays)]))
        norms = [norm(weights, g) for g in listed["mlp"]]
        order = sorted(range(widths.mlp), key=lambda i: -norms[i])
        assert kept.mlp == tuple(sorted(order[: len(kept.mlp)]))
        expected = {name: torch.zeros_like(value) for name, value in weights.items()}
        stay = [listed["mlp"][i] for i in kept.mlp]
        for name, width, chosen in (("qk", widths.qk, kept.qk), ("v", widths.v, kept.v)):
            stay += [
                listed[name][h * width + i]
                for h, those in zip(kept.heads, chosen, strict=True)
                for i in those
            ]
        for group in stay:
            for name, where in group:
                expected[name][where] = weights[name][where]
        for name in expected:
            if name.startswith(f"blocks.{index}."):
                assert torch.equal(projected[name], expected[name]), name


def test_no_weights_of_the_set_are_nearer() -> None:
    """All structured supports of a small block, one by one."""
    arch = replace(TINY, embed_dim=4, blocks=(BlockWidths(2, 3, 3, 4),))
    model = random_vit(arch, seed=5)
    wanted = structure(arch, Ratios(heads=0.5, qk=0.3, v=0.6, mlp=0.5))
    weights = values(model)
    projected, plan = wanted.project(weights)
    reached = sum(float((weights[name] - projected[name]).pow(2).sum()) for name in weights)
    (head,) = plan.blocks[0].heads
    distances = []
    for qk in itertools.combinations(range(3), 2):
        for v in itertools.combinations(range(3), 1):
            for mlp in itertools.combinations(range(4), 2):
                other = replace(plan.blocks[0], heads=(head,), qk=(qk,), v=(v,), mlp=mlp)
                kept = keep_masks(arch, Plan(plan.embed, (other,)))
                left = [float((weights[name] * (1 - kept[name])).pow(2).sum()) for name in weights]
                distances.append(sum(left))
    assert reached == pytest.approx(min(distances), rel=1e-6)
    assert len(distances) == 54 and max(distances) > 1.01 * min(distances)


def test_projecting_twice_is_projecting_once(variant: ViT) -> None:
    wanted = structure(variant.arch)
    once, plan = wanted.project(values(variant))
    twice, again = wanted.project(once)
    assert plan == again
    assert all(torch.equal(once[name], twice[name]) for name in once)


def test_a_hard_projection_and_a_cut_have_the_same_logits(variant: ViT) -> None:
    """Physical removal of what is zero: the full-size projected model, the cut, and the mask agree."""
    images = random_images(variant.arch)
    dense = variant(images)
    before = values(variant)
    plan = hard_projection(variant, structure(variant.arch))
    with torch.no_grad():
        full, small = variant(images), cut(variant, plan)(images)
        assert (full - dense).abs().max() > 1e-3
        torch.testing.assert_close(small, full, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(mask(variant, plan)(images), full, atol=1e-5, rtol=1e-5)
    assert any(not torch.equal(before[name], value) for name, value in values(variant).items())


# ---- the optimisation


class Squares(Objective):
    """|W - target|² / 2 of the constrained weights: the augmented problem then has a closed form."""

    def __init__(self, target: dict[str, torch.Tensor]) -> None:
        self.target = target
        self.steps: list[int] = []
        self.state: dict[str, int] = {}

    def loss(self, model, images, targets):
        weights = constrained(model)
        loss = sum((weights[name] - value).pow(2).sum() for name, value in self.target.items()) / 2
        return loss, {"own": 1.0}

    def after_step(self, model: ViT, step: int) -> None:
        self.steps.append(step)

    def after_epoch(self, model: ViT, epoch: int) -> dict[str, float]:
        return {"inner": float(epoch)}

    def state_dict(self) -> dict[str, object]:
        return {"seen": len(self.steps)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.state = state


def admm(model: ViT, **options: Any) -> tuple[Admm, Squares]:
    inner = Squares(values(random_vit(TINY, seed=9)))
    return Admm(inner, model, structure(TINY), AdmmOptions(**options)), inner


def descend(model: ViT, inner: Squares, rate: float) -> None:
    """A step of gradient descent on `Squares`."""
    with torch.no_grad():
        for name, weight in constrained(model).items():
            weight.sub_(rate * (weight - inner.target[name]))


def test_the_primal_residual_is_its_formula(tiny: ViT) -> None:
    objective, inner = admm(tiny)
    loss, figures = objective.loss(tiny, UNREAD, UNREAD)
    distance = size = 0.0
    for name, weight in constrained(tiny).items():
        for w, z in zip(weight.flatten().tolist(), objective.z[name].flatten().tolist(), strict=True):
            distance += (w - z) ** 2
            size += w**2
    assert float(figures["primal_residual"]) == pytest.approx(math.sqrt(distance / size), rel=1e-4)
    assert float(loss.detach()) == pytest.approx(float(inner.loss(tiny, UNREAD, UNREAD)[0].detach()))
    assert figures["own"] == 1.0 and "exchanged" not in figures


def test_the_pull_is_the_proximal_step_of_the_penalty(tiny: ViT) -> None:
    """Gradient descent on rho/2 |w - z + u|² + |w - v|² / (2 eta), with c = eta rho / (1 + eta rho)."""
    objective, _ = admm(tiny, steps=4, settle=1.0, pull=3.0)
    objective.u = {name: torch.full_like(value, 0.01) for name, value in objective.u.items()}
    start = values(tiny)
    objective.pull(tiny, 2)
    share = 1 - math.exp(-3.0 * ((3 / 4) ** 3 - (2 / 4) ** 3))
    eta = 0.1
    rho = share / (1 - share) / eta
    for name, pulled in values(tiny).items():
        w = start[name].clone().double()
        for _ in range(200):
            w -= 0.5 / (rho + 1 / eta) * (rho * (w - objective.z[name] + 0.01) + (w - start[name]) / eta)
        torch.testing.assert_close(pulled.double(), w, atol=1e-6, rtol=1e-5)


def test_without_a_loss_the_pull_leaves_what_it_promises(tiny: ViT) -> None:
    """If the structure is fixed at once, exp(-pull) of the removed weights is left, and the others stay."""
    objective, _ = admm(tiny, steps=7, settle=0.0, pull=2.0)
    before, kept = values(tiny), objective.kept
    for step in range(7):
        objective.after_step(tiny, step)
    for name, value in values(tiny).items():
        wanted = before[name] * (kept[name] + math.exp(-2.0) * (1 - kept[name]))
        torch.testing.assert_close(value, wanted, atol=1e-7, rtol=1e-5)


def test_z_and_u_follow_the_algorithm(tiny: ViT) -> None:
    """Against the three lines of the algorithm in its unscaled form, with the dual y = rho u."""
    objective, _ = admm(tiny, steps=40, updates=4, settle=1.0, dual=True)
    wanted = structure(TINY)
    z = wanted.project(values(tiny))[0]
    assert all(torch.equal(objective.z[name], z[name]) for name in z)
    y = {name: torch.zeros_like(value) for name, value in z.items()}
    for turn in range(3):
        with torch.no_grad():
            for weight in constrained(tiny).values():
                weight.add_(0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(turn)))
        w = values(tiny)
        rho, following = (10 * (turn + 1)) ** 2, (10 * (turn + 2)) ** 2  # the pull's rate, but for a factor
        z, plan = wanted.project({name: w[name] + y[name] / rho for name in w})
        y = {name: y[name] + rho * (w[name] - z[name]) for name in w}
        objective.done = 10 * (turn + 1)
        objective.update(tiny)
        for name in w:
            assert objective.u[name].any()
            torch.testing.assert_close(objective.z[name], z[name])
            torch.testing.assert_close(objective.u[name] * following, y[name], atol=1e-4, rtol=1e-4)
            assert torch.equal(objective.kept[name], keep_masks(TINY, plan)[name])


def test_the_exchanged_fraction_counts_groups_that_are_newly_kept(tiny: ViT) -> None:
    objective, _ = admm(tiny, steps=10, updates=10)
    before = structure(TINY).plan(values(tiny))
    with torch.no_grad():
        for name, weight in constrained(tiny).items():
            weight.copy_(random_vit(TINY, seed=4).get_parameter(name))
    after = structure(TINY).plan(values(tiny))
    objective.done = 1
    objective.update(tiny)

    def listed(plan: Plan) -> set[tuple[Any, ...]]:
        found: set[tuple[Any, ...]] = set()
        for block, kept in enumerate(plan.blocks):
            found |= {("mlp", block, i) for i in kept.mlp}
            for kind, chosen in (("q", kept.qk), ("k", kept.qk), ("v", kept.v)):
                found |= {
                    (kind, block, h, i) for h, those in zip(kept.heads, chosen, strict=True) for i in those
                }
        return found

    new = listed(after) - listed(before)
    assert new and objective.exchanged == pytest.approx(len(new) / len(listed(after)))


@pytest.mark.parametrize("dual", [False, True])
def test_training_ends_in_the_structure(dual: bool, tiny: ViT) -> None:
    """By plain gradient descent: W comes to lie in the structured set, at the target on its support."""
    objective, inner = admm(tiny, steps=400, updates=40, pull=12.0, dual=dual)
    gaps, residuals, exchanges = [], [], []
    for step in range(400):
        residuals.append(float(objective.loss(tiny, UNREAD, UNREAD)[1]["primal_residual"]))
        descend(tiny, inner, 0.05 * (1 - step / 400))
        objective.after_step(tiny, step)
        if (step + 1) % 40 == 0:
            figures = objective.after_epoch(tiny, step // 40)
            gaps.append(figures["constraint_gap"])
            exchanges.append(figures["exchanged"])
    assert gaps[0] > 0.3 and gaps[-1] < 0.02 and residuals[0] > 0.4 and residuals[-1] < 0.02
    assert exchanges[-5:] == [0.0] * 5
    plan = hard_projection(tiny, structure(TINY))
    assert plan.architecture(TINY) == structure(TINY).target
    kept = keep_masks(TINY, plan)
    for name, value in values(tiny).items():
        torch.testing.assert_close(value, inner.target[name] * kept[name], atol=2e-2, rtol=0)


@pytest.mark.parametrize(("updates", "at"), [(1, []), (2, [2]), (3, [1, 3]), (6, [0, 1, 2, 3, 4])])
def test_updates_are_spread_evenly(updates: int, at: list[int], tiny: ViT) -> None:
    """The structure is fixed after the last step, where an update would have no effect."""
    objective, inner = admm(tiny, steps=6, updates=updates, settle=1.0)
    found = []
    for step in range(6):
        z = objective.z
        objective.after_step(tiny, step)
        found += [step] if objective.z is not z else []
    assert found == at and inner.steps == list(range(6))


def test_a_settled_structure_does_not_change_any_more(tiny: ViT) -> None:
    objective, _ = admm(tiny, steps=8, updates=8, settle=0.5, pull=0.1)
    masks = []
    for step in range(8):
        with torch.no_grad():
            for name, weight in constrained(tiny).items():
                weight.copy_(random_vit(TINY, seed=step + 1).get_parameter(name))
        objective.after_step(tiny, step)
        masks.append(objective.kept)
        assert objective.exchanged is not None and objective.exchanged > 0.1  # what an update would change
    assert masks[1] is not masks[2] and masks[2] is masks[7] and objective.settled


def test_a_checkpoint_brings_everything_back(tiny: ViT) -> None:
    objective, inner = admm(tiny, steps=8, updates=4, dual=True)
    inner.steps = [1, 2]
    for step in range(3):
        descend(tiny, inner, 0.1)
        objective.after_step(tiny, step)
    state = objective.state_dict()
    other, its_inner = admm(random_vit(TINY, seed=7), steps=8, updates=4, dual=True)
    other.load_state_dict(state)
    assert its_inner.state == {"seen": 5}
    twin = random_vit(TINY, seed=7)
    twin.load_state_dict(tiny.state_dict())
    for step in range(3, 8):
        for one, model in ((objective, tiny), (other, twin)):
            descend(model, inner, 0.1)
            one.after_step(model, step)
    assert all(torch.equal(value, values(twin)[name]) for name, value in values(tiny).items())
    assert other.exchanged == objective.exchanged and other.after_epoch(twin, 0) == objective.after_epoch(
        tiny, 0
    )


def test_another_structure_has_another_identity(tiny: ViT) -> None:
    first, second = admm(tiny)[0], admm(tiny, pull=0.1)[0]
    third = Admm(Objective(), tiny, structure(TINY, Ratios(mlp=0.1)), AdmmOptions())
    again = Admm(Objective(), tiny, structure(TINY, Ratios(mlp=0.1)), AdmmOptions())
    assert len({repr(each.identity()) for each in (first, second, third, again)}) == 3


def test_scores_that_differ_in_their_last_bits_are_one_identity(tiny: ViT) -> None:
    """Ranked on another number of threads, a run still finds its checkpoint; other heads are another run."""
    plain = structure(TINY)
    nudged = replace(plain, heads=tuple(tuple(math.nextafter(s, 2) for s in row) for row in plain.heads))
    turned = replace(plain, heads=tuple(tuple(-score for score in row) for row in plain.heads))
    known, same, other = (Admm(Objective(), tiny, s, AdmmOptions()) for s in (plain, nudged, turned))
    assert nudged != plain and known.identity() == same.identity() != other.identity()


# ---- models that merge tokens, or lack halves of blocks


@pytest.fixture(params=[name for name, arch in SHORTER.items() if arch.num_classes])
def shorter(request: pytest.FixtureRequest) -> ViT:
    return random_vit(SHORTER[request.param])


def halved(arch: Architecture) -> Structure:
    return structure(arch, Ratios(v=0.5, mlp=0.5, qk=0.5))


def test_absent_halves_are_neither_constrained_nor_cut(shorter: ViT) -> None:
    wanted, images = halved(shorter.arch), random_images(shorter.arch)
    plan = hard_projection(shorter, wanted)
    assert keep_masks(shorter.arch, plan).keys() == constrained(shorter).keys()
    small = cut(shorter, plan)
    assert small.arch == wanted.target
    with torch.no_grad():
        torch.testing.assert_close(small(images), shorter(images), atol=1e-5, rtol=1e-4)


def test_a_training_of_such_a_model_ends_in_the_structure(shorter: ViT) -> None:
    wanted, images, labels = halved(shorter.arch), random_images(shorter.arch), torch.arange(4)
    options = AdmmOptions(steps=6, updates=3, pull=20.0)
    admm = Admm(Distillation(shorter, shorter, Recovery()), shorter, wanted, options)
    optimizer = torch.optim.SGD(shorter.parameters(), lr=1e-3)
    for step in range(6):
        loss, figures = admm.loss(shorter, images, labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        admm.after_step(shorter, step)
        assert {"features", "primal_residual"} <= figures.keys()
    assert admm.after_epoch(shorter, 0)["constraint_gap"] < 1e-2
    again = Admm(Distillation(shorter, shorter, Recovery()), shorter, wanted, options)
    again.load_state_dict(admm.state_dict())
    assert again.gap(shorter) == admm.gap(shorter) and again.done == 6
