"""Refits: what a layer's weight becomes when its inputs are fewer, or not what they were."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from pruning.projection.least_squares import Moments, Statistics, regularised, ridge_held_out

_LOCAL = 1e-3  # strength of the ridge by which kept channels stand in for the removed ones


def goal(moments: Moments, weight: Float[Tensor, "E I"], pull: float) -> tuple[Tensor, Float[Tensor, "E I"]]:
    """Covariance of a layer's inputs, regularised, and the weight that would be best with all of them.

    `moments` are of the inputs z and of what would bring the dense stream back. What is aimed at is
    so much of it as `pull` says, and of weight z the rest.
    """
    whole, halves = _towards(moments, weight, pull)
    best, strength = ridge_held_out(whole, halves, weight)
    return regularised(whole.covariance, min(strength, _LOCAL)), best


def refit(
    moments: Moments,
    weight: Float[Tensor, "E I"],
    down: Float[Tensor, "K I"] | Int[Tensor, " K"],
    pull: float,
) -> tuple[Float[Tensor, "E K"], Float[Tensor, " E"]]:
    """Weight on the new channels, and the bias behind it; `moments` and `pull` as for `goal`.

    New channels are `down` z, or those of z that it numbers. Least squares shrunk towards the local
    solution, which stands in for weight z alone.
    """
    whole, halves = _towards(moments, weight, pull)
    local = replace(whole, covariance=regularised(whole.covariance, _LOCAL))
    local = _narrowed(replace(local, cross=local.covariance @ weight.T), down)
    prior = torch.linalg.solve(local.covariance, local.cross).T
    whole = _narrowed(whole, down)
    if halves is not None:
        halves = _narrowed(halves[0], down), _narrowed(halves[1], down)
    fitted, _ = ridge_held_out(whole, halves, prior)
    return fitted, whole.mean_out - fitted @ whole.mean_in


def refit_reader(wide: nn.Linear, narrow: nn.Linear, moments: Moments, prior: Float[Tensor, "E K"]) -> None:
    """Give `narrow` what `wide` makes of the best linear estimate of its inputs, from other ones.

    `moments` are of the other inputs and of those of `wide`; the estimate is shrunk towards `prior`.
    """
    whole = moments.statistics()
    estimate, _ = ridge_held_out(whole, moments.halves(), prior)
    shift = whole.mean_out - estimate @ whole.mean_in
    weight = wide.weight.double()
    narrow.weight.copy_(weight @ estimate)
    narrow.bias.copy_(wide.bias.double() + weight @ shift)


def _towards(
    moments: Moments, weight: Tensor, pull: float
) -> tuple[Statistics, tuple[Statistics, Statistics] | None]:
    """Statistics of all images and of the halves, with what is aimed at as outputs."""
    halves = moments.halves()
    if halves is not None:
        halves = halves[0].towards(weight, 1 - pull), halves[1].towards(weight, 1 - pull)
    return moments.statistics().towards(weight, 1 - pull), halves


def _narrowed(statistics: Statistics, down: Tensor) -> Statistics:
    return statistics.through(down) if down.is_floating_point() else statistics.only(down)
