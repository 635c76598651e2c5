from __future__ import annotations

import sys
import time

import pytest
import torch
from torch import Tensor

from pruning.projection.least_squares import (
    STRENGTHS,
    Moments,
    Statistics,
    regularised,
    ridge,
    ridge_held_out,
)
from pruning.projection.neurons import Elimination
from tests.support import reference


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def moments_of(z: Tensor, y: Tensor, weights: Tensor, batch: int) -> Moments:
    moments = Moments(z.shape[-1], y.shape[-1])
    for inputs, outputs in zip(z.split(batch), y.split(batch), strict=True):
        moments.add(inputs, outputs, weights)
    return moments


def halves_of(moments: Moments) -> tuple[Statistics, Statistics]:
    halves = moments.halves()
    assert halves is not None
    return halves


def assert_same(got: Statistics, expected: Statistics) -> None:
    for name in ("mean_in", "mean_out", "covariance", "cross"):
        torch.testing.assert_close(getattr(got, name), getattr(expected, name))


def test_statistics_are_weighted_means_and_covariances() -> None:
    z, y, weights = draw(7, 5, 4) + 3, draw(7, 5, 2, seed=1), torch.tensor([2.0, 1, 1, 0.5, 0.5])
    got = moments_of(z, y, weights, 3).statistics()
    share = (weights.double() / (7 * weights.sum()))[None, :, None]
    mean_z, mean_y = (z * share).sum((0, 1)), (y * share).sum((0, 1))
    covariance, cross = torch.zeros(4, 4).double(), torch.zeros(4, 2).double()
    for image in range(7):
        for token in range(5):
            part = share[0, token] * (z[image, token] - mean_z)
            covariance += torch.outer(part, z[image, token] - mean_z)
            cross += torch.outer(part, y[image, token] - mean_y)
    assert_same(got, Statistics(mean_z, mean_y, covariance, cross))


@pytest.mark.parametrize("batch", [1, 2, 3, 8])
def test_moments_do_not_depend_on_batching(batch: int) -> None:
    z, y, weights = draw(8, 5, 4), draw(8, 5, 2, seed=1), torch.rand(5)
    one, other = moments_of(z, y, weights, 8), moments_of(z, y, weights, batch)
    assert_same(other.statistics(), one.statistics())
    for got, expected in zip(halves_of(other), halves_of(one), strict=True):
        assert_same(got, expected)


def test_halves_are_every_second_image() -> None:
    z, y, weights = draw(6, 5, 4), draw(6, 5, 2, seed=1), torch.ones(5)
    first, second = halves_of(moments_of(z, y, weights, 3))
    assert_same(first, moments_of(z[::2], y[::2], weights, 3).statistics())
    assert_same(second, moments_of(z[1::2], y[1::2], weights, 3).statistics())


def test_towards_through_and_only_are_what_new_data_would_give() -> None:
    z, y, weights = draw(6, 5, 4), draw(6, 5, 2, seed=1), torch.rand(5)
    whole = moments_of(z, y, weights, 6).statistics()
    step, down = draw(2, 4, seed=2), draw(3, 4, seed=3)
    mixed = 0.3 * z @ step.T + 0.7 * y
    assert_same(whole.towards(step, 0.3), moments_of(z, mixed, weights, 6).statistics())
    assert_same(whole.through(down), moments_of(z @ down.T, y, weights, 6).statistics())
    kept = torch.tensor([3, 1])
    assert_same(whole.only(kept), moments_of(z[..., kept], y, weights, 6).statistics())


def test_wide_covariances_are_added_in_blocks() -> None:
    z, weights = draw(3, 4, 1100), torch.rand(4)
    flat, counts = z.flatten(0, 1), weights.double().repeat(3)
    mean = counts @ flat / counts.sum()
    expected = ((flat - mean) * counts[:, None]).T @ (flat - mean) / counts.sum()
    torch.testing.assert_close(moments_of(z, draw(3, 4, 1), weights, 2).statistics().covariance, expected)


def test_refit_without_shrinking_is_lstsq() -> None:
    z, y = draw(4, 10, 5), draw(4, 10, 3, seed=1)
    whole = moments_of(z, y, torch.ones(10), 4).statistics()
    weight = ridge(whole, draw(3, 5, seed=2), 0.0)
    flat = torch.cat([z.flatten(0, 1), torch.ones(40, 1).double()], dim=1)
    expected = torch.linalg.lstsq(flat, y.flatten(0, 1)).solution
    torch.testing.assert_close(weight, expected[:-1].T)
    torch.testing.assert_close(whole.mean_out - weight @ whole.mean_in, expected[-1])


def test_ridge_minimises_its_objective() -> None:
    z, y, prior = draw(4, 10, 5), draw(4, 10, 3, seed=1), draw(3, 5, seed=2)
    whole = moments_of(z, y, torch.ones(10), 4).statistics()
    weight = ridge(whole, prior, 0.3).requires_grad_()
    z, y = (x.flatten(0, 1) - x.mean((0, 1)) for x in (z, y))
    error = (y - z @ weight.T).square().sum(1).mean()
    (error + 0.3 * (z.square().mean(0) * (weight - prior) ** 2).sum()).backward()
    torch.testing.assert_close(weight.grad, torch.zeros_like(weight), atol=1e-7, rtol=0)


def test_held_out_strength_is_the_best_of_all() -> None:
    z = draw(6, 8, 5)
    y = z @ draw(5, 3, seed=1) + 2 * draw(6, 8, 3, seed=2)
    moments, prior = moments_of(z, y, torch.ones(8), 6), torch.zeros(3, 5).double()
    halves = halves_of(moments)
    errors = {}
    for strength in STRENGTHS:
        total = 0.0
        for here, there in ((0, 1), (1, 0)):
            weight = ridge(halves[here], prior, strength)
            inputs, outputs = (x[there::2].flatten(0, 1) for x in (z, y))
            wrong = (outputs - outputs.mean(0)) - (inputs - inputs.mean(0)) @ weight.T
            total += float(wrong.square().sum(1).mean())
        errors[strength] = total
    weight, strength = ridge_held_out(moments.statistics(), halves, prior)
    assert strength == min(errors, key=errors.__getitem__)
    torch.testing.assert_close(weight, ridge(moments.statistics(), prior, strength))


def test_noise_alone_leaves_the_prior() -> None:
    prior = draw(3, 30, seed=2)
    z = draw(4, 4, 30)
    y = z @ prior.T + draw(4, 4, 3, seed=5)
    moments = moments_of(z, y, torch.ones(4), 4)
    weight, strength = ridge_held_out(moments.statistics(), moments.halves(), prior)
    assert strength >= 1
    assert (weight - prior).norm() < 0.2 * prior.norm()


def test_one_image_holds_nothing_out_and_leaves_the_prior() -> None:
    moments, prior = moments_of(draw(1, 9, 4), draw(1, 9, 2), torch.ones(9), 1), draw(2, 4)
    weight, strength = ridge_held_out(moments.statistics(), moments.halves(), prior)
    assert strength == float("inf")
    assert torch.equal(weight, prior)


def test_of_outputs_that_are_the_priors_nothing_is_solved(monkeypatch: pytest.MonkeyPatch) -> None:
    """Narrowing single blocks asks for that at the full width, where it took a third of the time."""
    monkeypatch.setattr(sys.modules["pruning.projection.least_squares"], "_step", None)
    moments, prior = moments_of(draw(4, 9, 6), draw(4, 9, 2), torch.ones(9), 2), draw(2, 6, seed=3)
    first, second = (half.towards(prior, 1) for half in moments.halves() or ())
    weight, strength = ridge_held_out(moments.statistics().towards(prior, 1), (first, second), prior)
    assert strength == float("inf") and torch.equal(weight, prior)


def test_inputs_that_never_vary_keep_the_prior() -> None:
    z, prior = draw(4, 9, 5), draw(2, 5)
    z[..., 2], z[..., 4] = 0, z[..., 3]  # a dead one, and one that repeats another
    whole = moments_of(z, draw(4, 9, 2, seed=3), torch.ones(9), 4).statistics()
    weight = ridge(whole, prior, 1e-3)
    torch.testing.assert_close(weight[:, 2], prior[:, 2])
    assert bool(weight.isfinite().all())


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("keep", [1, 4, 9, 12])
def test_obs_equals_least_squares_from_scratch(seed: int, keep: int) -> None:
    z, weight = draw(200, 12, seed=seed), draw(5, 12, seed=seed + 10)
    covariance = z.T @ z / 200 + 0.5 * torch.ones(12, 12).double()
    found = Elimination(covariance, weight).kept(keep)
    assert found.tolist() == reference.obs_order(covariance, weight, keep)


@pytest.mark.parametrize("lazy", [1, 3, 100])
def test_obs_does_not_depend_on_how_lazily_it_updates(lazy: int, monkeypatch: pytest.MonkeyPatch) -> None:
    z, weight = draw(300, 40), draw(5, 40, seed=1)
    monkeypatch.setattr("pruning.projection.neurons._LAZY", lazy)
    covariance = z.T @ z / 300
    assert Elimination(covariance, weight).kept(9).tolist() == reference.obs_order(covariance, weight, 9)


def test_fewer_neurons_continue_where_more_stopped() -> None:
    z, weight = draw(300, 40), draw(5, 40, seed=1)
    known = Elimination(z.T @ z / 300, weight)
    for keep in (30, 9, 20, 40):
        expected = Elimination(z.T @ z / 300, weight).kept(keep)
        assert known.kept(keep).tolist() == expected.tolist()


def test_obs_drops_dead_and_repeated_neurons_first() -> None:
    z = draw(50, 10)
    z[:, 3], z[:, 8] = 0, z[:, 1]
    kept = Elimination(regularised(z.T @ z / 50, 1e-6), draw(4, 10, seed=1)).kept(8).tolist()
    assert 3 not in kept
    assert (1 in kept) != (8 in kept)


def test_obs_drops_the_first_of_equal_neurons() -> None:
    assert Elimination(torch.eye(300).double(), torch.ones(2, 300).double()).kept(200).tolist() == [
        *range(100, 300)
    ]


def test_obs_with_fewer_samples_than_neurons_keeps_as_many_as_asked() -> None:
    z = draw(10, 60)
    kept = Elimination(regularised(z.T @ z / 10, 1e-5), draw(4, 60, seed=1)).kept(30)
    assert len(kept.unique()) == 30


def test_obs_of_a_deit_tiny_layer_takes_seconds_at_most() -> None:
    z, weight = draw(1600, 768), draw(192, 768, seed=1)
    covariance = z.T @ z / 1600
    began = time.process_time()
    assert len(Elimination(covariance, weight).kept(384)) == 384
    assert time.process_time() - began < 20


def test_no_images_is_an_error() -> None:
    with pytest.raises(ValueError, match="needs calibration images, got none"):
        Moments(3, 2).statistics()


def test_not_finite_is_an_error() -> None:
    z = draw(2, 3, 4)
    z[0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="activations are not finite"):
        moments_of(z, draw(2, 3, 2), torch.ones(3), 2).statistics()
