"""Criteria: what each part of a model is worth. One registry, `CRITERIA`.

Every criterion scores the four primitive structures: query-key pairs, value neurons, MLP neurons,
and rows of the layers that write to the residual stream. The rest follows the same way for all of
them: heads from their pairs and values, channels of the residual stream from the writing layers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from analysis.capture import capture
from analysis.evaluate import Batches
from analysis.threads import threads
from analysis.vit import Block, LayerScale, ViT
from pruning.options import Options, option_field
from pruning.selection import Scores


@dataclass(frozen=True)
class NoOptions(Options):
    """For criteria with nothing to set."""


@dataclass(frozen=True)
class SeedOptions(Options):
    """A seed for random scores."""

    seed: int = option_field(0, 0, 2**31 - 1, "Another seed draws another random choice.")


@dataclass(frozen=True)
class SnpOptions(Options):
    """Settings of SNP's query-key score."""

    gamma: int = option_field(
        0, 0, 1024, "Leading singular directions compared; 0 takes a quarter of the head's width."
    )
    images: int = option_field(64, 1, 4096, "Calibration images the score is averaged over.")


@dataclass(frozen=True)
class Criterion:
    """A registry entry: the scoring function, its options, and one sentence for the interface."""

    score: Callable[[ViT, Batches, Any], Scores]
    options: type[Options]
    title: str
    explanation: str

    @property
    def needs_images(self) -> bool:
        """Whether it looks at calibration images at all."""
        return any(option.name == "images" for option in fields(self.options))


def snp(model: ViT, batches: Batches, options: SnpOptions) -> Scores:
    """SNP (Shim, Yun, Choi, ECCV 2024): what a pair adds to the attention scores, and redundancy.

    Raises:
        ValueError: no calibration images.
    """
    pairs = snp_pairs(model, batches, options.gamma)
    return _assemble(model, pairs, dissimilarity)


def snp_pairs(model: ViT, batches: Batches, gamma: int = 0) -> tuple[Float[Tensor, "H Dqk"], ...]:
    """SNP's score of every query-key pair, per block, averaged over images [ours].

    w_i = sum_{j<=gamma} |cos(s_j u_j v_j^T, q_i k_i^T)| with Q K^T = sum_j s_j u_j v_j^T
    [paper]; `gamma` 0 takes a quarter of the head's width [ours]. Activations of one block and
    batch are held at a time.

    Raises:
        ValueError: no images.
    """
    sums = [torch.zeros(widths.heads, widths.qk) for widths in model.arch.blocks]
    count = 0
    with capture(model) as record:
        for images, _ in batches:
            for block in record(images):
                terms = gamma or max(1, block.q.shape[-1] // 4)
                sums[block.index] += pair_scores(block.q, block.k, terms).sum(dim=0).cpu()
            count += len(images)
    if count == 0:
        raise ValueError("SNP needs calibration images, got none")
    return tuple(total / count for total in sums)


def pair_scores(
    q: Float[Tensor, "B H N Dqk"], k: Float[Tensor, "B H N Dqk"], gamma: int
) -> Float[Tensor, "B H Dqk"]:
    """SNP's pair scores of single images in O(N Dqk^2), without any N x N matrix [ours, exact].

    The cosine of the two rank-one matrices is (u_j . q_i)(v_j . k_i) / (|q_i| |k_i|): s_j
    cancels. With thin QR, Q = Aq Rq and K = Ak Rk, the singular vectors of Q K^T are Aq U and
    Ak V for Rq Rk^T = U S V^T, so that u_j . q_i = U_j . (column i of Rq).
    """
    with threads(1):  # matrices this small only wait for each other on more, up to 50 times as long
        rq = torch.linalg.qr(q, mode="r").R  # B H D D (min(N, D) rows where there are few tokens)
        rk = torch.linalg.qr(k, mode="r").R
        u, _, vh = torch.linalg.svd(rq @ rk.transpose(-2, -1), full_matrices=False)
    on_q = u[..., :gamma].transpose(-2, -1) @ _unit_columns(rq)  # B H gamma D
    on_k = vh[..., :gamma, :] @ _unit_columns(rk)  # B H gamma D
    return (on_q * on_k).abs().sum(dim=-2)


def _unit_columns(matrix: Tensor) -> Tensor:
    # columns of R are as long as those of Q; a dead column stays zero and scores zero
    return matrix / matrix.norm(dim=-2, keepdim=True).clamp_min(torch.finfo(matrix.dtype).tiny)


def dissimilarity(weight: Float[Tensor, "rows columns"]) -> Float[Tensor, " rows"]:
    """SNP's score of neurons [paper]: w_i = sum over l != i of (1 - |cos(W_i, W_l)|)."""
    unit = torch.nn.functional.normalize(weight, dim=-1)
    return len(weight) - 1 - ((unit @ unit.T).abs().fill_diagonal_(0).sum(dim=-1))


def l1(model: ViT, batches: Batches, options: NoOptions) -> Scores:
    """Magnitude by absolute sum of a part's weight rows (Li et al. 2017)."""
    return _by_rows(model, lambda weight: weight.abs().sum(dim=-1))


def l2(model: ViT, batches: Batches, options: NoOptions) -> Scores:
    """Magnitude by Euclidean norm of a part's weight rows (Li et al. 2017)."""
    return _by_rows(model, lambda weight: weight.norm(dim=-1))


def random(model: ViT, batches: Batches, options: SeedOptions) -> Scores:
    """Uniform random scores: the floor every criterion has to beat."""
    generator = torch.Generator().manual_seed(options.seed)
    return _by_rows(model, lambda weight: torch.rand(len(weight), generator=generator))


CRITERIA: dict[str, Criterion] = {
    "snp": Criterion(
        snp,
        SnpOptions,
        "SNP",
        "Keeps the query-key pairs that carry the attention scores, and neurons unlike their neighbours.",
    ),
    "l1": Criterion(l1, NoOptions, "L1 magnitude", "Keeps the parts with the largest absolute weights."),
    "l2": Criterion(l2, NoOptions, "L2 magnitude", "Keeps the parts with the largest weight norms."),
    "random": Criterion(random, SeedOptions, "Random", "Keeps a random choice: the floor to beat."),
}


def _by_rows(model: ViT, score: Callable[[Tensor], Tensor]) -> Scores:
    """A criterion that looks at weight rows; a pair's row is its query row with its key row."""
    pairs = []
    with torch.no_grad():
        for block in model.blocks:
            q, k, _ = _qkv_weights(block)
            pairs.append(score(torch.cat([q, k], dim=-1).flatten(0, 1)).view(block.attn.heads, -1))
    return _assemble(model, tuple(pairs), score)


def _assemble(model: ViT, pairs: tuple[Tensor, ...], score: Callable[[Tensor], Tensor]) -> Scores:
    """Add value neurons, MLP neurons, heads and residual channels to the scores of the pairs."""
    with torch.no_grad():
        values = []
        for block in model.blocks:
            _, _, v = _qkv_weights(block)
            values.append(score(v.flatten(0, 1)).view(block.attn.heads, -1))
        return Scores(
            qk=pairs,
            v=tuple(values),
            mlp=tuple(score(block.mlp.fc1.weight) for block in model.blocks),
            heads=tuple(_head_scores(qk, v) for qk, v in zip(pairs, values, strict=True)),
            embed=torch.stack([_shares(score(weight)) for weight in _residual_writers(model)]).mean(dim=0),
        )


def _qkv_weights(block: Block) -> tuple[Tensor, Tensor, Tensor]:
    """Weights of a block by head: q and k H Dqk E, v H Dv E."""
    q, k, v = block.attn.qkv.weight.split(block.attn.qkv_rows)
    heads = block.attn.heads
    return q.unflatten(0, (heads, -1)), k.unflatten(0, (heads, -1)), v.unflatten(0, (heads, -1))


def _head_scores(pairs: Tensor, values: Tensor) -> Tensor:
    """A head's share of its block's pair scores plus its share of the value scores [ours]: H."""
    return _shares(pairs.sum(dim=-1)) + _shares(values.sum(dim=-1))


def _residual_writers(model: ViT) -> list[Tensor]:
    """Weights (E rows) of the layers that write to the residual stream [paper].

    LayerScale stands behind the layer in the same rows, so it is multiplied in [ours].
    """
    writers = [model.patch_embed.proj.weight.flatten(1)]
    for block in model.blocks:
        for layer, behind in ((block.attn.proj, block.ls1), (block.mlp.fc2, block.ls2)):
            scale = behind if isinstance(behind, LayerScale) else None
            writers.append(scale.gamma[:, None] * layer.weight if scale else layer.weight)
    return writers


def _shares(scores: Tensor) -> Tensor:
    # all-zero scores (a dead layer) say nothing about any part: equal shares
    total = scores.sum()
    return scores / total if total > 0 else torch.full_like(scores, 1 / len(scores))
