"""Refits: what a layer's weight becomes when its inputs are fewer, or not what they were."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from pruning.regression import Moments, Statistics, regularised, ridge_held_out

_LOCAL = 1e-3  # strength of the ridge by which kept channels stand in for the removed ones


def goal(moments: Moments, weight: Float[Tensor, "E I"]) -> tuple[Tensor, Float[Tensor, "E I"]]:
    """Covariance of a layer's inputs, regularised, and the weight that would be best with all of them."""
    whole, halves = _towards(moments, weight)
    best, strength = ridge_held_out(whole, halves, weight)
    return regularised(whole.covariance, min(strength, _LOCAL)), best


def refit(
    moments: Moments, weight: Float[Tensor, "E I"], down: Float[Tensor, "K I"]
) -> tuple[Float[Tensor, "E K"], Float[Tensor, " E"]]:
    """Weight on the new channels `down` z and what to add to the bias.

    Least squares shrunk towards the local solution, which stands in for weight z alone.
    """
    whole, halves = _towards(moments, weight)
    covariance = regularised(whole.covariance, _LOCAL)
    local = torch.linalg.solve(down @ covariance @ down.T, down @ covariance @ weight.T).T
    whole = whole.through(down)
    if halves is not None:
        halves = halves[0].through(down), halves[1].through(down)
    fitted, _ = ridge_held_out(whole, halves, local)
    return fitted, whole.mean_out - fitted @ whole.mean_in


def _towards(moments: Moments, weight: Tensor) -> tuple[Statistics, tuple[Statistics, Statistics] | None]:
    """Statistics whose outputs are weight z and the gap, of all images and of the halves."""
    halves = moments.halves()
    if halves is not None:
        halves = halves[0].plus(weight), halves[1].plus(weight)
    return moments.statistics().plus(weight), halves
