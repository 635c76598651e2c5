"""Attention logits without some query-key pairs: the best bilinear form of the pairs that are left.

Axes beside the usual ones: S pairs that stay, P pairs that go.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from analysis.vit import Attention
from pruning.projection.least_squares import regularised, require_finite


@dataclass(frozen=True)
class PairProducts:
    """Products of a head's queries, and of its keys, summed over the tokens of each image.

    The last row and column of `queries` belong to a query that is 1 for every token. Keys are centred over
    the tokens of their image: the softmax ignores what a query's logits have in common.
    """

    queries: Float[Tensor, "B H Dqk+1 Dqk+1"]
    keys: Float[Tensor, "B H Dqk Dqk"]

    @classmethod
    def of(cls, attn: Attention, normed: Float[Tensor, "B N E"]) -> PairProducts:
        """Of a batch of inputs of an attention."""
        q, k, _ = (part.double() for part in attn.split_heads(attn.qkv(normed)))  # B H N Dqk
        q = torch.cat([q, torch.ones_like(q[..., :1])], dim=-1)
        k = k - k.mean(dim=2, keepdim=True)
        return cls(q.mT @ q, k.mT @ k)

    @classmethod
    def joined(cls, parts: Sequence[PairProducts]) -> PairProducts:
        """Of all images of several batches.

        Raises:
            ValueError: no batches, or values that are not finite.
        """
        if not parts:
            raise ValueError("statistics of attention need calibration images, got none")
        queries, keys = torch.cat([one.queries for one in parts]), torch.cat([one.keys for one in parts])
        require_finite(queries, keys)
        return cls(queries, keys)

    def energies(self) -> Float[Tensor, "H Dqk"]:
        """Sum over images and over pairs of their tokens of (q_ni k_mi)^2: each pair's part in the logits."""
        own = self.queries.diagonal(dim1=-2, dim2=-1)[..., :-1] * self.keys.diagonal(dim1=-2, dim2=-1)
        return own.sum(dim=0)


def logit_map(
    products: PairProducts, head: int, kept: Sequence[int], strength: float, constant: bool
) -> Float[Tensor, "S+1 S"]:
    """The M by which [q_S, 1]^T M k_S stands in for the logits q_P^T k_P that a head loses.

    minimise sum over images and tokens n, m of each ([q_S, 1]_n^T M k_Sm - q_Pn^T k_Pm)^2, plus a ridge of
    `strength` times the curvature by each entry of M. In the normal equations the products of the tokens
    of an image meet as a Kronecker product, so no logit is computed. Without a `constant` the last row is 0.
    """
    queries, keys = products.queries[:, head], products.keys[:, head]  # B D+1 D+1, B D D
    stay = torch.tensor(kept, device=keys.device)
    gone = torch.ones(keys.shape[-1], dtype=torch.bool, device=keys.device)
    gone[stay] = False
    rows = torch.cat([stay, stay.new_tensor([keys.shape[-1]])]) if constant else stay
    on_queries, on_keys = queries[:, rows][:, :, rows], keys[:, stay][:, :, stay]  # B R R, B S S
    counts = len(rows), len(stay)
    normal = on_queries.flatten(1).T @ on_keys.flatten(1)  # R*R S*S
    normal = normal.view(counts[0], counts[0], counts[1], counts[1]).transpose(1, 2).flatten(2).flatten(0, 1)
    lost = (queries[:, rows, :-1][:, :, gone] @ keys[:, gone][:, :, stay]).sum(dim=0)  # R S
    solved = torch.linalg.solve(regularised(normal, strength), lost.flatten()).view(counts)
    return solved if constant else torch.cat([solved, solved.new_zeros(1, len(stay))])
