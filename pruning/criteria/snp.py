"""SNP: Structured Neuron-level Pruning (Shim, Yun, Choi, ECCV 2024; arXiv 2404.11630), as a criterion."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from analysis.attention import BlockActivations, capture
from analysis.measure import Batches
from analysis.threads import threads
from analysis.vit import Architecture, ViT
from pruning.criteria.row_scores import assemble
from pruning.cut import Scores
from pruning.options import ImageOptions, option_field


@dataclass(frozen=True)
class SnpOptions(ImageOptions):
    """Settings of SNP's query-key score."""

    gamma: int = option_field(
        0, 0, 1024, "Leading singular directions compared; 0 takes a quarter of the head's width."
    )
    images: int = option_field(64, 1, 4096, "Calibration images the score is averaged over.")


def snp(model: ViT, batches: Batches, options: SnpOptions) -> Scores:
    """SNP (Shim, Yun, Choi, ECCV 2024): what a pair adds to the attention scores, and redundancy.

    Raises:
        ValueError: no calibration images.
    """
    pairs = snp_pairs(model, batches, options.gamma)
    return assemble(model, pairs, dissimilarity)


def snp_reversed(model: ViT, batches: Batches, options: SnpOptions) -> Scores:
    """SNP with every order turned round: a control, which must do worse than SNP and than random.

    Raises:
        ValueError: no calibration images.
    """
    scores = snp(model, batches, options)
    return Scores(
        qk=tuple(-part for part in scores.qk),
        v=tuple(-part for part in scores.v),
        mlp=tuple(-part for part in scores.mlp),
        heads=tuple(-part for part in scores.heads),
        embed=-scores.embed,
    )


class PairScores:
    """SNP's score of every query-key pair, averaged over images [ours], gathered block by block.

    w_i = sum_{j<=gamma} |cos(s_j u_j v_j^T, q_i k_i^T)| with Q K^T = sum_j s_j u_j v_j^T
    [paper]; `gamma` 0 takes a quarter of the head's width [ours]. With rotary positions the two terms of a
    plane stay or go together and are taken together; each gets half of their score [ours].
    """

    def __init__(self, arch: Architecture, gamma: int = 0) -> None:
        self._gamma, self._images, self._in_planes = gamma, 0, arch.rope
        self._sums = [torch.zeros(widths.heads, widths.qk) for widths in arch.blocks]

    def add(self, block: BlockActivations) -> None:
        """Take in what a block computed for a batch."""
        terms = self._gamma or max(1, block.q.shape[-1] // 4)
        found = pair_scores(block.q, block.k, terms, 2 if self._in_planes else 1)
        self._sums[block.index] += found.sum(dim=0).cpu()
        self._images += len(block.q) if block.index == 0 else 0

    def mean(self) -> tuple[Float[Tensor, "H Dqk"], ...]:
        """Scores per block.

        Raises:
            ValueError: nothing was added.
        """
        if self._images == 0:
            raise ValueError("SNP needs calibration images, got none")
        return tuple(total / self._images for total in self._sums)


def snp_pairs(model: ViT, batches: Batches, gamma: int = 0) -> tuple[Float[Tensor, "H Dqk"], ...]:
    """`PairScores` of a model; activations of one block and batch are held at a time.

    Raises:
        ValueError: no images.
    """
    scores = PairScores(model.arch, gamma)
    with capture(model) as record:
        for images, _ in batches:
            for block in record(images):
                scores.add(block)
    return scores.mean()


def pair_scores(
    q: Float[Tensor, "B H N Dqk"], k: Float[Tensor, "B H N Dqk"], gamma: int, together: int = 1
) -> Float[Tensor, "B H Dqk"]:
    """SNP's pair scores of single images in O(N Dqk^2), without any N x N matrix [ours, exact].

    Of so many pairs that stay or go `together` the terms are summed before the cosine is taken.

    The cosine of the two rank-one matrices is (u_j . q_i)(v_j . k_i) / (|q_i| |k_i|): s_j
    cancels. With thin QR, Q = Aq Rq and K = Ak Rk, the singular vectors of Q K^T are Aq U and
    Ak V for Rq Rk^T = U S V^T, so that u_j . q_i = U_j . (column i of Rq).
    """
    with threads(1):  # matrices this small only wait for each other on more, up to 50 times as long
        rq = torch.linalg.qr(q, mode="r").R  # B H D D (min(N, D) rows where there are few tokens)
        rk = torch.linalg.qr(k, mode="r").R
        u, _, vh = torch.linalg.svd(rq @ rk.transpose(-2, -1), full_matrices=False)
    if together > 1:
        return _together(u[..., :gamma].mT @ rq, vh[..., :gamma, :] @ rk, rq, rk, together)
    on_q = u[..., :gamma].transpose(-2, -1) @ _unit_columns(rq)  # B H gamma D
    on_k = vh[..., :gamma, :] @ _unit_columns(rk)  # B H gamma D
    return (on_q * on_k).abs().sum(dim=-2)


def _together(on_q: Tensor, on_k: Tensor, rq: Tensor, rk: Tensor, count: int) -> Float[Tensor, "B H Dqk"]:
    """The same for sums of `count` terms: |sum_i q_i k_i^T|^2 = sum_ij (q_i . q_j)(k_i . k_j)."""
    groups_q, groups_k = (matrix.unflatten(-1, (-1, count)).transpose(-3, -2) for matrix in (rq, rk))
    products = (groups_q.mT @ groups_q) * (groups_k.mT @ groups_k)  # B H groups count count
    length = products.sum(dim=(-2, -1)).clamp_min(0).sqrt()
    along = (on_q * on_k).unflatten(-1, (-1, count)).sum(dim=-1).abs().sum(dim=-2)  # B H groups
    scores = along / length.clamp_min(torch.finfo(rq.dtype).tiny)
    return (scores / count).repeat_interleave(count, dim=-1)


def _unit_columns(matrix: Tensor) -> Tensor:
    # columns of R are as long as those of Q; a dead column stays zero and scores zero
    return matrix / matrix.norm(dim=-2, keepdim=True).clamp_min(torch.finfo(matrix.dtype).tiny)


def dissimilarity(weight: Float[Tensor, "rows columns"]) -> Float[Tensor, " rows"]:
    """SNP's score of neurons [paper]: w_i = sum over l != i of (1 - |cos(W_i, W_l)|)."""
    unit = torch.nn.functional.normalize(weight, dim=-1)
    return len(weight) - 1 - ((unit @ unit.T).abs().fill_diagonal_(0).sum(dim=-1))
