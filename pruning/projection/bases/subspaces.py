"""The best subspaces: for queries and keys, for the value channels of heads, for one weight.

What the closed forms know of the data are second moments, in float64. D is the width of a head,
I the inputs of a layer.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

_JITTER = 1e-9  # of the mean variance, so that channels that never vary have a root to divide by
_SWEEPS = 2  # over the heads of a block, each improved with the others in view


def qk_bases(
    query: Float[Tensor, "H D D"], key: Float[Tensor, "H D D"], rank: int
) -> tuple[Float[Tensor, "H D rank"], Float[Tensor, "H D rank"]]:
    """A and B of the best q^T A B^T k in expected squared error from q^T k, drawn independently.

    With second moments Lq Lq^T of the queries and Lk Lk^T of the keys, and Lq^T Lk = U S V^T:
    A = Lq^-T U_r S_r^1/2, B = Lk^-T V_r S_r^1/2 (Eckart, Young 1936).
    """
    roots = _root(query), _root(key)
    u, s, vh = torch.linalg.svd(roots[0].mT @ roots[1])
    scale = s[:, None, :rank].sqrt()
    on_q, on_k = u[..., :rank] * scale, vh[:, :rank].mT * scale
    return torch.linalg.solve(roots[0].mT, on_q), torch.linalg.solve(roots[1].mT, on_k)


def value_bases(
    covariance: Float[Tensor, "I I"], weight: Float[Tensor, "E I"], heads: int, rank: int
) -> Float[Tensor, "H rank D"]:
    """For each head the channels from which weight z is predicted best, z being all heads' outputs.

    Starts from each head's own truncation and improves head by head, what the other heads'
    channels explain taken out of both sides: reduced-rank regression (Izenman 1975) in turns.
    """
    width = len(covariance) // heads
    own = [slice(head * width, (head + 1) * width) for head in range(heads)]
    bases = torch.stack([truncate(covariance[part, part], weight[:, part], rank) for part in own])
    cross = covariance @ weight.T  # I E
    for head in list(range(heads)) * (_SWEEPS if heads > 1 else 0):
        part = own[head]
        others = torch.block_diag(*bases)
        others = torch.cat([others[: head * rank], others[(head + 1) * rank :]])
        on_others = others @ covariance  # what they share with every output
        explained = torch.linalg.solve(on_others @ others.T, on_others[:, part]).T
        inner = covariance[part, part] - explained @ on_others[:, part]
        outer = cross[part] - explained @ (others @ cross)
        bases[head] = truncate(inner, torch.linalg.solve(inner, outer).T, rank)
    return bases


def orthonormal(
    bases: Float[Tensor, "H rank D"],
) -> tuple[Float[Tensor, "H rank D"], Float[Tensor, "H rank rank"]]:
    """Bases of the same subspaces with orthonormal rows, and what takes their channels to those of the bases.

    `value_bases` gives channels of variance one, and where tokens attend alike, as in a model that has not
    learned, heads' outputs hardly vary: rows were a hundred times as long as the dense model's, and `proj`
    as much shorter, so that first steps of Adam, which are as long for every weight, ruined the model.
    """
    even, back = torch.linalg.qr(bases.mT)  # H D rank, H rank rank
    return even.mT, back.mT


def truncate(
    covariance: Float[Tensor, "D D"], weight: Float[Tensor, "E D"], rank: int
) -> Float[Tensor, "rank D"]:
    """The channels T z from which weight z is predicted best: T = V_r^T L^-1 with weight L = U S V^T.

    L L^T is the covariance of z. The squared error is the sum of the dropped S_i^2 (Eckart, Young).
    """
    root = _root(covariance)
    _, _, vh = torch.linalg.svd(weight @ root, full_matrices=len(weight) < rank)
    return torch.linalg.solve(root.mT, vh[:rank].mT).mT


def _root(covariance: Float[Tensor, "*H D D"]) -> Float[Tensor, "*H D D"]:
    """A Cholesky factor, also of a covariance with empty directions, or nothing but those."""
    variance = covariance.diagonal(dim1=-2, dim2=-1).mean(dim=-1)[..., None, None]
    jitter = torch.where(variance > 0, _JITTER * variance, 1.0)
    return torch.linalg.cholesky(covariance + jitter * torch.eye(covariance.shape[-1]).to(covariance))
