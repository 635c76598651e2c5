"""Choosing MLP neurons greedily by the inverse covariance (OBS)."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

_LAZY = 64  # removals between two updates of the whole inverse


class Elimination:
    """Neurons removed one by one, always the one whose loss the others can best make up for.

    Optimal Brain Surgeon (Hassibi, Stork 1993) on least squares: with H the inverse covariance of
    the neurons that are left and W their refitted weights, removing i costs |W_i|^2 / H_ii, and then
    W -= W_i H_i / H_ii and H -= H_i H_i^T / H_ii. The updates are kept as factors and multiplied out
    once in a while, and W appears only through W^T W, so that a removal costs O(F) [ours, exact].
    Of equal losses the neuron with the lower index goes first.
    """

    def __init__(self, covariance: Float[Tensor, "F F"], weight: Float[Tensor, "E F"]) -> None:
        self._inverse, self._gram = torch.linalg.inv(covariance), weight.T @ weight
        self._left = torch.arange(len(covariance), device=covariance.device)
        self._removed: list[int] = []  # in this order
        self._all = self._left

    def kept(self, keep: int) -> Int[Tensor, " keep"]:
        """The neurons left once only `keep` are, in rising order; nothing is computed twice."""
        while len(self._left) > keep:
            count = min(_LAZY, len(self._left) - keep)
            order, self._inverse, self._gram = _remove(self._inverse, self._gram, count)
            self._removed += self._left[order].tolist()
            stays = torch.ones_like(self._left, dtype=torch.bool)
            stays[order] = False
            self._left = self._left[stays]
        stays = torch.ones_like(self._all, dtype=torch.bool)
        stays[self._removed[: len(self._all) - keep]] = False
        return self._all[stays]


def _remove(inverse: Tensor, gram: Tensor, count: int) -> tuple[list[int], Tensor, Tensor]:
    """Remove `count` neurons: which went, in order, and the inverse and Gram matrix of the others."""
    u, a, b = (inverse.new_zeros(len(inverse), count) for _ in range(3))  # inverse - u u^T
    pivots, norms = inverse.diagonal().clone(), gram.diagonal().clone()  # gram - a b^T - b a^T
    gone, order = torch.zeros(len(inverse), dtype=torch.bool, device=inverse.device), []
    for step in range(count):
        # rounding can bring a pivot below zero where neurons repeat one another
        costs = norms.clamp_min(0) / pivots.clamp_min(torch.finfo(pivots.dtype).tiny)
        index = int(costs.masked_fill(gone, torch.inf).argmin())
        row = inverse[index] - u[:, :step] @ u[index, :step]  # F
        products = gram[index] - a[:, :step] @ b[index, :step] - b[:, :step] @ a[index, :step]  # F
        pivot = row[index].clamp_min(torch.finfo(row.dtype).tiny)
        share = row / pivot
        u[:, step] = row / pivot.sqrt()
        a[:, step], b[:, step] = products - products[index] / 2 * share, share
        pivots -= u[:, step] ** 2
        norms -= 2 * a[:, step] * share
        gone[index] = True
        order.append(index)
    inverse, gram = inverse - u @ u.T, gram - a @ b.T - b @ a.T
    return order, inverse[~gone][:, ~gone], gram[~gone][:, ~gone]
