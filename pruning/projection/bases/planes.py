"""Choosing planes of queries and keys where rotary positions turn them [ours].

Channels 2p and 2p + 1 of a head are a plane, which is turned by an angle of its own, so planes cannot be
mixed. Inside one, queries and keys may be turned and scaled: that is a complex factor. Scores are a sum over
planes, sum_p Q_p K_p^T, and what is lost with some of them the others take up by their factors as far as they
can. J turns a plane by a right angle: a factor a + b i makes a Q_p K_p^T + b Q_p (K_p J)^T of its term.

Axes beside the usual ones: P planes of a head, and T = 2P terms, first Q_p K_p^T, then Q_p (K_p J)^T.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pruning.projection.least_squares import regularised

_RIDGE = 1e-4  # relative to the square of each term


def plane_products(
    q: Float[Tensor, "B H N D"], k: Float[Tensor, "B H N D"], weights: Float[Tensor, " N"]
) -> Float[Tensor, "H T T"]:
    """Products of all terms with each other, summed over images.

    A query counts by the weight of its token. Keys are centred over the tokens of an image, because the
    softmax ignores what all scores of a query have in common.
    """
    q, k = q.double(), k.double()
    k = k - k.mean(dim=2, keepdim=True)
    turned = torch.stack([-k[..., 1::2], k[..., ::2]], dim=-1).flatten(-2)
    q, k = torch.cat([q, q], dim=-1), torch.cat([k, turned], dim=-1)  # B H N 2D
    products = ((q * weights.double()[:, None]).mT @ q) * (k.mT @ k)
    return products.sum(dim=0).unflatten(-1, (-1, 2)).sum(dim=-1).unflatten(-2, (-1, 2)).sum(dim=-2)


def choose_planes(
    products: Float[Tensor, "H T T"], count: int
) -> tuple[Int[Tensor, "H count"], Float[Tensor, "H count 2"]]:
    """The planes of each head to keep, rising, and the factor a + b i of each.

    One plane after another goes, the one whose loss, after the others have taken up what they can, is least
    (the rule of Optimal Brain Surgeon, Hassibi and Stork 1993).
    """
    chosen = [_eliminated(one, count) for one in products]
    return torch.stack([planes for planes, _ in chosen]), torch.stack([factors for _, factors in chosen])


def _eliminated(products: Float[Tensor, "T T"], count: int) -> tuple[Tensor, Tensor]:
    total = len(products) // 2
    inverse = torch.linalg.inv(regularised(products, _RIDGE))
    inverse = inverse.view(2, total, 2, total).permute(1, 3, 0, 2)  # P P 2 2
    factors = torch.zeros(total, 2).to(products)
    factors[:, 0] = 1
    left = torch.ones(total, dtype=torch.bool, device=products.device)
    for _ in range(total - count):
        own = inverse.diagonal(dim1=0, dim2=1).permute(2, 0, 1)  # P 2 2
        safe = torch.where(left[:, None, None], own, torch.eye(2).to(own))
        solved = torch.linalg.solve(safe, factors[..., None])[..., 0]  # P 2
        loss = torch.where(left, (factors * solved).sum(dim=-1), torch.inf)
        gone = int(loss.argmin())
        factors = factors - (inverse[:, gone] @ solved[gone][:, None])[..., 0]
        inverse = inverse - inverse[:, gone, None] @ torch.linalg.solve(own[gone], inverse[gone])[None]
        left[gone], factors[gone] = False, 0
    planes = left.nonzero()[:, 0]
    return planes, factors[planes]


def kept_rows(
    queries: Float[Tensor, "H D I"],
    keys: Float[Tensor, "H D I"],
    planes: Int[Tensor, "H count"],
    factors: Float[Tensor, "H count 2"],
) -> tuple[Tensor, Tensor]:
    """The rows of queries and of keys in these planes, those of keys turned and scaled by the factors."""
    at = planes[..., None, None].expand(-1, -1, 2, queries.shape[-1])
    queries, keys = (rows.unflatten(1, (-1, 2)).gather(1, at) for rows in (queries, keys))  # H count 2 I
    first, second = keys.unbind(2)
    a, b = (one[..., None] for one in factors.to(keys).unbind(-1))
    keys = torch.stack([a * first - b * second, a * second + b * first], dim=2)
    return queries.flatten(1, 2), keys.flatten(1, 2)


def kept_planes(rope: Float[Tensor, "HP 3"], planes: Int[Tensor, "H count"]) -> Float[Tensor, "Hcount 3"]:
    """The angles of these planes, in the form that an attention holds them."""
    at = planes[..., None].expand(-1, -1, rope.shape[-1])
    return rope.unflatten(0, (len(planes), -1)).gather(1, at).flatten(0, 1)
