"""Groups of weights that are removed together, and their norms, as in DepGraph (Fang et al., CVPR 2023).

Query-key pair: query row, key row and their biases. Value channel: value row, its bias and the column of
`proj` that reads it. MLP neuron: row of `fc1` (both rows where it is gated), its bias and the column of
`fc2`. Head: all its pairs and value channels. Channel of the residual stream: its share of every weight that
writes, normalises or reads the stream, in the whole network. Biases count, because they are removed with the
rest [ours].
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from analysis.vit import Architecture, ViT
from pruning.cut import Scores, stream_axis


class GroupNorms(NamedTuple):
    """Norms of all groups inside the blocks, by block."""

    qk: tuple[Float[Tensor, "H Dqk"], ...]
    v: tuple[Float[Tensor, "H Dv"], ...]
    mlp: tuple[Float[Tensor, " F"], ...]


@torch.no_grad()
def group_norms(arch: Architecture, weights: Mapping[str, Tensor], order: int = 2) -> GroupNorms:
    """L1 or L2 norms (`order`) of the groups inside the blocks, from the blocks' `weights` by name."""
    pairs, values, neurons = [], [], []
    for index, widths in enumerate(arch.blocks):
        attn, mlp = f"blocks.{index}.attn", f"blocks.{index}.mlp"
        q = k = v = neuron = torch.zeros(0, dtype=torch.float64)
        if widths.heads:
            rows = _by_row(weights, f"{attn}.qkv", order)
            q, k, v = rows.split([widths.heads * width for width in (widths.qk, widths.qk, widths.v)])
            v = v + _sums(weights[f"{attn}.proj.weight"], 1, order)
        if widths.mlp:
            rows = _by_row(weights, f"{mlp}.fc1", order).view(-1, widths.mlp).sum(dim=0)
            neuron = rows + _sums(weights[f"{mlp}.fc2.weight"], 1, order)
        pairs.append(_root(q + k, order).view(widths.heads, widths.qk))
        values.append(_root(v, order).view(widths.heads, widths.v))
        neurons.append(_root(neuron, order))
    return GroupNorms(tuple(pairs), tuple(values), tuple(neurons))


@torch.no_grad()
def by_groups(model: ViT, order: int) -> Scores:
    """The norm of its group as the score of every part of a model."""
    found = group_norms(model.arch, dict(model.named_parameters()), order)
    heads = [
        _norm_of_norms(torch.cat([pairs, values], dim=-1), order)
        for pairs, values in zip(found.qk, found.v, strict=True)
    ]
    return Scores(
        qk=_single(found.qk),
        v=_single(found.v),
        mlp=_single(found.mlp),
        heads=_single(heads),
        embed=_stream_norms(model, order).float(),
    )


def _stream_norms(model: ViT, order: int) -> Float[Tensor, " E"]:
    total = torch.zeros(model.arch.embed_dim, dtype=torch.float64, device=model.pos_embed.device)
    for name, weight in model.named_parameters():
        axis = stream_axis(model.arch, name)
        if axis is not None:
            total += _sums(weight, axis, order).view(-1, len(total)).sum(dim=0)
    return _root(total, order)


def _by_row(weights: Mapping[str, Tensor], layer: str, order: int) -> Float[Tensor, " rows"]:
    rows = _sums(weights[f"{layer}.weight"], 0, order)
    bias = weights.get(f"{layer}.bias")
    return rows if bias is None else rows + _sums(bias, 0, order)


def _sums(weight: Tensor, axis: int, order: int) -> Float[Tensor, " parts"]:
    """Sum of |w|^order over everything that has the same index on an axis, in float64."""
    return weight.double().movedim(axis, 0).reshape(weight.shape[axis], -1).abs().pow(order).sum(dim=1)


def _root(sums: Tensor, order: int) -> Tensor:
    return sums.pow(1 / order)


def _norm_of_norms(norms: Tensor, order: int) -> Tensor:
    return _root(norms.pow(order).sum(dim=-1), order)


def _single(scores: Iterable[Tensor]) -> tuple[Tensor, ...]:
    return tuple(score.float() for score in scores)
