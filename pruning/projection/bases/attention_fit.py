"""Low-rank attention scores that keep the attention's output, not only the scores.

The closed form (`subspaces.qk_bases`) takes queries and keys for independent and every score for
equally important. Here both assumptions go: the scores of real pairs of one image count, each by
how far an error in it moves the output of the attention. Everything here is [ours].
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

_FLOOR = 0.02  # of the mean importance: what every score counts at least, so that none is free
_STEPS = 8  # of conjugate gradients for each
_JITTER = 1e-6  # of the mean variance, in the preconditioner alone


def score_importance(
    attention: Float[Tensor, "B N N"],
    value: Float[Tensor, "B N D"],
    output: Float[Tensor, "B N D"],
    metric: Float[Tensor, "D D"],
    tokens: Float[Tensor, " N"],
) -> Float[Tensor, "B N N"]:
    """How much a squared error in each score of a head counts; the mean is about one.

    To first order an error e in score (n, m) moves output n by A_nm (v_m - o_n) e, whose squared
    length behind `proj` (columns P of the head, `metric` = P^T P) is
    A_nm^2 (v_m - o_n)^T P^T P (v_m - o_n) e^2. `tokens` weighs the queries.
    """
    on_value = value @ metric  # B N D
    of_value = (on_value * value).sum(dim=-1)[:, None]  # B 1 N
    of_output = (output @ metric * output).sum(dim=-1)[:, :, None]  # B N 1
    apart = of_value + of_output - 2 * output @ on_value.mT  # B N N: squared distances
    importance = attention.square() * apart.clamp_min(0) * tokens.to(apart)[:, None]
    mean = importance.mean()
    return importance / mean + _FLOOR if mean > 0 else torch.ones_like(importance)


def fit_scores(
    query: Float[Tensor, "B N D"],
    key: Float[Tensor, "B N D"],
    importance: Float[Tensor, "B N N"],
    on_query: Float[Tensor, "D rank"],
    on_key: Float[Tensor, "D rank"],
    sweeps: int = 4,
) -> tuple[Float[Tensor, "D rank"], Float[Tensor, "D rank"]]:
    """A and B, better ones than those given, so that q^T A B^T k comes close to q^T k.

    minimise sum_nm importance_nm (q_n^T k_m - q_n^T A B^T k_m)^2 over pairs of one image, by
    alternating least squares: each side is a linear problem, solved by conjugate gradients on
    N x N matrices of scores. A sweep fits both sides, each with the other held. The result is never
    worse than the bases given.
    """
    scores = query @ key.mT  # B N N

    def loss(a: Tensor, b: Tensor) -> Tensor:
        missing = scores - (query @ a) @ (key @ b).mT
        return (importance * missing.square()).sum()

    best, a, b = loss(on_query, on_key), on_query, on_key
    for _ in range(sweeps):
        a = _one_side(query, key @ b, importance, scores, a)
        b = _one_side(key, query @ a, importance.mT, scores.mT, b)
        found = loss(a, b)
        if not found < best:
            break
        best, on_query, on_key = found, a, b
    return on_query, on_key


def _one_side(rows: Tensor, columns: Tensor, importance: Tensor, scores: Tensor, start: Tensor) -> Tensor:
    """The X that minimises sum importance (scores - rows X columns^T)^2, from `start`: D rank."""

    def back(weighted: Tensor) -> Tensor:
        return (rows.mT @ (weighted @ columns)).sum(dim=0)  # D rank

    def curvature(x: Tensor) -> Tensor:
        return back(importance * ((rows @ x) @ columns.mT))

    sides = (rows, importance.sum(dim=-1)), (columns, importance.sum(dim=-2))
    left, right = (_inverse((part.mT @ (counts[..., None] * part)).sum(dim=0)) for part, counts in sides)
    return conjugate_gradients(
        curvature, back(importance * scores), start, lambda x: left @ x @ right, _STEPS
    )


def conjugate_gradients(
    curvature: Callable[[Tensor], Tensor],
    goal: Tensor,
    start: Tensor,
    precondition: Callable[[Tensor], Tensor],
    steps: int,
) -> Tensor:
    """`steps` of preconditioned conjugate gradients towards curvature(x) = goal (Hestenes, Stiefel 1952)."""
    x, residual = start, goal - curvature(start)
    direction = ready = precondition(residual)
    size = (residual * ready).sum()
    for _ in range(steps):
        if not size > 0:  # solved
            break
        along = curvature(direction)
        length = size / (direction * along).sum().clamp_min(torch.finfo(size.dtype).tiny)
        x, residual = x + length * direction, residual - length * along
        ready = precondition(residual)
        before, size = size, (residual * ready).sum()
        direction = ready + size / before * direction
    return x


def _inverse(covariance: Tensor) -> Tensor:
    variance = covariance.diagonal().mean()
    jitter = torch.where(variance > 0, _JITTER * variance, 1.0)
    return torch.linalg.inv(covariance + jitter * torch.eye(len(covariance)).to(covariance))
