"""Sensitivities against a whole model that is cut and run, with the divergence written out."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch

from analysis.outputs import kl_divergence
from analysis.vit import ViT
from pruning.budget.curves import BUDGETED_STRUCTURES, Curve, Sensitivities, doubt
from pruning.budget.sensitivity import measure_sensitivities, measured_widths, narrow_by_scores
from pruning.criteria.registry import CRITERIA
from pruning.cut.plan import Plan
from pruning.cut.selection import Scores, select
from pruning.cut.surgery import cut
from pruning.options import Options
from tests.support.models import TINY, VARIANTS, batches, random_images, random_vit


def l2_scores(model: ViT) -> Scores:
    options: Options = CRITERIA["l2"].options()
    return CRITERIA["l2"].score(model, [], options)


def measured(model: ViT, images: torch.Tensor, size: int = 3) -> Sensitivities:
    return measure_sensitivities(model, batches(images, size), narrow_by_scores(model, l2_scores(model)))


def slow_divergence(dense: ViT, other: ViT, images: torch.Tensor) -> float:
    """Mean over images of sum_c p_c ln(p_c / q_c), one number at a time; of features see below."""
    if not dense.arch.num_classes:
        return slow_turn(dense, other, images)
    with torch.no_grad():
        p, q = (model(images).double().softmax(dim=1).tolist() for model in (dense, other))
    pairs = ((a, b) for ps, qs in zip(p, q, strict=True) for a, b in zip(ps, qs, strict=True))
    return sum(a * math.log(a / b) for a, b in pairs) / len(images)


def slow_turn(dense: ViT, other: ViT, images: torch.Tensor) -> float:
    """Mean over images of 1 - cos, half that of the pooled feature and half the mean over patches."""
    total, first = 0.0, len(dense.arch.prefix_names)
    with torch.no_grad():
        for image in images:
            pooled = [model(image[None])[0] for model in (dense, other)]
            patches = [model.forward_features(image[None])[0, first:] for model in (dense, other)]
            turns = [1 - float(a @ b / (a.norm() * b.norm())) for a, b in zip(*patches, strict=True)]
            total += (1 - float(pooled[0] @ pooled[1] / (pooled[0].norm() * pooled[1].norm()))) / 2
            total += sum(turns) / len(turns) / 2
    return total / len(images)


@pytest.mark.parametrize("name", ["plain", "distilled", "average pool", "uneven", "no head"])
@pytest.mark.parametrize("certain", [False, True])
def test_curves_are_those_of_whole_models_cut_in_one_place(
    name: str, certain: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twin: every width cut and run. Measured are the second, the last, and where in doubt the middle one."""
    monkeypatch.setattr("pruning.budget.sensitivity._DOUBT", math.inf if certain else -1)
    monkeypatch.setattr("pruning.budget.sensitivity._ATTENTION", 4)
    model, scores = random_vit(VARIANTS[name]), l2_scores(random_vit(VARIANTS[name]))
    images = random_images(model.arch, 5)
    found = measured(model, images)
    assert found.images == 5
    for index, widths in enumerate(model.arch.blocks):
        for structure in BUDGETED_STRUCTURES:
            curve, errors, divergences = getattr(found.blocks[index], structure), [], []
            for width in curve.widths[1:]:
                blocks = list(model.arch.blocks)
                blocks[index] = replace(widths, **{structure: width})
                target = replace(model.arch, blocks=tuple(blocks))
                small = cut(model, select(scores, model.arch, target))
                few = images if structure == "mlp" else images[:4]
                divergences.append(slow_divergence(model, small, few))
                errors.append(slow_local_error(model, small, images[:3], index))
            last = len(errors) - 1
            known = {min(1, last), last} | ({len(errors) // 2} if not certain else set())
            expected = Curve.predicted(curve.widths, errors, {place: divergences[place] for place in known})
            assert curve.kl == pytest.approx(expected.kl, rel=1e-2, abs=1e-7)


@torch.no_grad()
def slow_local_error(dense: ViT, other: ViT, images: torch.Tensor, index: int) -> float:
    """Mean squared difference behind block `index`, of the tokens that are still read there."""
    x = y = dense.embed(images)
    for before, after in zip(dense.blocks[: index + 1], other.blocks[: index + 1], strict=True):
        x, y = before(x)[0], after(y)[0]
    last = index == dense.arch.depth - 1 and dense.arch.pool == "token" and dense.arch.num_classes
    read = 1 + dense.arch.distilled if last else None
    return float((x - y)[:, :read].square().mean())


def test_nothing_narrowed_is_no_loss() -> None:
    model = random_vit(TINY)
    assert measured(model, random_images(TINY)).loss(model.arch) == 0


def test_the_loss_is_the_sum_of_what_was_narrowed() -> None:
    model = random_vit(TINY)
    found = measured(model, random_images(TINY))
    first, second = model.arch.blocks
    arch = replace(model.arch, blocks=(replace(first, qk=4), replace(second, v=2, mlp=24)))
    parts = found.blocks[0].qk.at(4), found.blocks[1].v.at(2), found.blocks[1].mlp.at(24)
    assert found.loss(arch) == pytest.approx(sum(parts)) and min(parts) > 0


def test_structures_left_out_know_the_dense_width_only() -> None:
    model = random_vit(TINY)
    narrow = narrow_by_scores(model, l2_scores(model))
    found = measure_sensitivities(model, batches(random_images(TINY)), narrow, structures=("mlp", "heads"))
    assert found.blocks[0].qk == found.blocks[1].v == Curve((8,), (0.0,))
    assert found.blocks[0].mlp.widths == (32, 28, 24, 16, 8, 4)


def test_measuring_leaves_the_model_untouched_and_tells_how_far_it_is() -> None:
    model = random_vit(TINY).train()
    before, told = copy.deepcopy(model.state_dict()), []
    narrow = narrow_by_scores(model, l2_scores(model))
    measure_sensitivities(model, batches(random_images(TINY)), narrow, progress=lambda _, s: told.append(s))
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert model.training and all(block.training for block in model.blocks)
    assert told[0] == 0 and told[-1] == 1 and told == sorted(told)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_block_narrowed_to_its_own_width_is_the_dense_block(name: str) -> None:
    model = random_vit(VARIANTS[name])
    narrow = narrow_by_scores(model, l2_scores(model))
    for index, widths in enumerate(model.arch.blocks):
        block = narrow(index, "mlp", widths.mlp)
        torch.testing.assert_close(block.state_dict(), model.blocks[index].state_dict(), rtol=0, atol=0)


def test_narrowing_keeps_what_the_whole_plan_keeps() -> None:
    model = random_vit(VARIANTS["uneven"])
    scores = l2_scores(model)
    narrow = narrow_by_scores(model, scores)
    plan = Plan.keep_all(model.arch)
    best = tuple(sorted(scores.mlp[1].argsort(descending=True)[:5].tolist()))
    plan = replace(plan, blocks=(plan.blocks[0], replace(plan.blocks[1], mlp=best)))
    expected = cut(model, plan).blocks[1]
    torch.testing.assert_close(narrow(1, "mlp", 5).state_dict(), expected.state_dict(), rtol=0, atol=0)


def test_divergence_of_equal_logits_is_zero_and_of_others_positive() -> None:
    logits = torch.randn(6, 10, generator=torch.Generator().manual_seed(0))
    assert kl_divergence(logits, logits + 3).tolist() == pytest.approx([0.0] * 6, abs=1e-6)
    assert (kl_divergence(logits, logits.flip(-1)) > 0.01).all()


# ---- curves


def test_widths_measured_fall_to_an_eighth() -> None:
    assert measured_widths(64) == (64, 56, 48, 32, 16, 8)
    assert measured_widths(3) == (3, 2, 1)
    assert measured_widths(1) == (1,)


def test_a_curve_goes_through_its_points_and_never_falls_as_width_falls() -> None:
    curve = Curve((64, 48, 32, 16, 8), (0.0, 0.01, 0.02, 0.5, 0.7))
    assert [curve.at(width) for width in curve.widths] == list(curve.kl)
    values = [curve.at(width) for width in range(64, 7, -1)]
    assert values == sorted(values)


def test_a_power_of_the_share_removed_is_found_again() -> None:
    widths = (64, 48, 32, 16, 8)
    curve = Curve(widths, tuple((1 - width / 64) ** 2.5 for width in widths))
    for width in range(8, 65):
        assert curve.at(width) == pytest.approx((1 - width / 64) ** 2.5)


def test_where_dead_neurons_run_out_a_curve_is_never_below_what_bends_upwards() -> None:
    def true(width: int) -> float:  # 80 of 512 neurons never fire
        return max(0, 432 - width) ** 2 / 512**2

    widths = (512, 448, 384, 256, 128, 64)
    curve = Curve(widths, tuple(map(true, widths)))
    for width in range(384, 449):
        assert true(width) <= curve.at(width) <= curve.at(384)
    assert max(curve.at(width) for width in range(448, 513)) < 1e-9


def test_between_widths_a_curve_is_straight_where_it_grows_more_than_tenfold() -> None:
    assert Curve((64, 48, 32), (0.0, 0.01, 0.11)).at(40) == pytest.approx(0.06)
    assert Curve((64, 48, 32), (0.0, 0.01, 0.09)).at(40) < 0.04


def test_near_the_dense_width_a_curve_is_at_most_proportional() -> None:
    flat = Curve((64, 32, 8), (0.0, 0.4, 0.4))
    assert flat.at(48) == pytest.approx(0.2)
    nothing = Curve((64, 32, 8), (0.0, 0.0, 0.3))
    assert 0 <= nothing.at(60) < 1e-12
    assert Curve((2, 1), (0.0, 0.3)).at(1) == 0.3


def test_noise_does_not_make_narrower_better() -> None:
    assert Curve.measured((8, 4, 2, 1), (0.0, 0.3, 0.2, 0.5)).kl == (0.0, 0.3, 0.3, 0.5)


@pytest.mark.parametrize(
    ("widths", "kl", "message"),
    [
        ((8, 4), (0.1, 0.2), "0 at the dense width"),
        ((8, 4), (0.0,), "one divergence per width"),
        ((4, 8), (0.0, 0.1), "widths must fall"),
        ((8, 4, 2), (0.0, 0.2, 0.1), "widths must fall, and its divergences must not"),
        ((8, 4), (0.0, math.nan), "must be finite"),
    ],
)
def test_impossible_curves_are_refused(widths: tuple, kl: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Curve(widths, kl)


@pytest.mark.parametrize("width", [1, 65])
def test_a_width_that_was_not_measured_is_refused(width: int) -> None:
    with pytest.raises(ValueError, match=f"from 2 to 64, got width {width}"):
        Curve((64, 2), (0.0, 1.0)).at(width)


# ---- predicted

FIVE = (64, 56, 48, 32, 16, 8)


def test_a_divergence_proportional_to_the_local_error_is_found_from_one_measurement() -> None:
    errors = (0.1, 0.25, 0.3, 0.9, 2.0)
    curve = Curve.predicted(FIVE, errors, {2: 0.6})
    assert curve.kl == pytest.approx((0, *(2 * error for error in errors)))


def test_between_two_measurements_a_divergence_is_a_power_of_the_local_error() -> None:
    errors = (0.1, 0.25, 0.3, 0.9, 2.0)
    true = tuple(3 * error**1.5 for error in errors)
    curve = Curve.predicted(FIVE, errors, {1: true[1], 4: true[4]})
    assert curve.kl[2:] == pytest.approx(true[1:])
    assert curve.kl[1] == pytest.approx(true[1] * 0.1 / 0.25)


def test_what_was_measured_stays_and_nothing_falls_as_width_falls() -> None:
    curve = Curve.predicted(FIVE, (0.1, 0.4, 0.2, 0.9, 0.8), {1: 0.5, 4: 0.7})
    assert curve.kl[2] == 0.5 and curve.kl[-1] == 0.7
    assert list(curve.kl) == sorted(curve.kl)


def test_neurons_that_never_fire_cost_nothing() -> None:
    curve = Curve.predicted(FIVE, (0.0, 0.0, 1e-3, 0.2, 0.4), {1: 0.0, 4: 0.8})
    assert curve.kl[:3] == pytest.approx((0, 0, 0), abs=1e-11)
    assert 0 < curve.kl[3] < curve.kl[4] < curve.kl[5] == 0.8


def test_doubt_is_how_far_the_divergence_outgrows_the_local_error() -> None:
    errors = (0.1, 0.25, 0.3, 0.9, 2.0)
    assert doubt(errors, {1: 0.5, 4: 4.0}) == pytest.approx(0)
    assert doubt(errors, {1: 0.5, 4: 8.0}) == pytest.approx(math.log(2))
    assert doubt(errors, {1: 1.0, 4: 4.0}) == pytest.approx(math.log(2))


def test_the_share_told_is_that_of_blocks_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Within a block it goes by the time that curves took in earlier blocks, so that the pace is even."""
    model, told, clock = random_vit(TINY), [], iter((0.0, 1.0, 2.0, 10.0, 11.0, 12.0, 20.0))
    monkeypatch.setattr("pruning.budget.sensitivity.monotonic", lambda: next(clock))
    narrow = narrow_by_scores(model, l2_scores(model))
    measure_sensitivities(model, batches(random_images(TINY)), narrow, progress=lambda _, s: told.append(s))
    first, rest = 6 / 11, 5 / 11
    within = [first / 4, first / 2, first, first + rest * 0.1, first + rest * 0.2, 1]
    assert told == pytest.approx([0, *within])


# ---- data and bad input


def test_no_images_are_refused() -> None:
    model = random_vit(TINY)
    with pytest.raises(ValueError, match="need calibration images, got none"):
        measure_sensitivities(model, [], narrow_by_scores(model, l2_scores(model)))
