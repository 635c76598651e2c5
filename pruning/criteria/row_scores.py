"""From scores of weight rows to scores of every structure.

Pairs, value neurons and MLP neurons are rows of weights. The rest follows the same way for every
criterion that looks at rows: heads from their pairs and values, channels of the residual stream
from the layers that write to it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from analysis.vit import Block, LayerScale, ViT
from pruning.cut import Scores


def by_rows(model: ViT, score: Callable[[Tensor], Tensor]) -> Scores:
    """A criterion that looks at weight rows alone; a pair's row is its query row with its key row."""
    pairs = []
    with torch.no_grad():
        for block in model.blocks:
            q, k, _ = _qkv_weights(block)
            pairs.append(_scored(torch.cat([q, k], dim=-1), score))
    return assemble(model, tuple(pairs), score)


def assemble(model: ViT, pairs: tuple[Tensor, ...], score: Callable[[Tensor], Tensor]) -> Scores:
    """Add value neurons, MLP neurons, heads and residual channels to the scores of the pairs."""
    with torch.no_grad():
        values = []
        for block in model.blocks:
            _, _, v = _qkv_weights(block)
            values.append(_scored(v, score))
        return Scores(
            qk=pairs,
            v=tuple(values),
            mlp=tuple(_neurons(block, score) for block in model.blocks),
            heads=tuple(_head_scores(qk, v) for qk, v in zip(pairs, values, strict=True)),
            embed=torch.stack([_shares(score(weight)) for weight in _residual_writers(model)]).mean(dim=0),
        )


def _scored(rows: Float[Tensor, "H D I"], score: Callable[[Tensor], Tensor]) -> Float[Tensor, "H D"]:
    """Scores of the rows of every head, which compete within their block."""
    return score(rows.flatten(0, 1)).view(rows.shape[:2]) if len(rows) else rows[..., 0]


def _neurons(block: Block, score: Callable[[Tensor], Tensor]) -> Float[Tensor, " F"]:
    """Both rows of a neuron in a gated MLP count as one."""
    if block.mlp is None:
        return torch.zeros(0)
    rows = block.mlp.fc1.weight
    return score(torch.cat(rows.chunk(2), dim=-1) if block.mlp.gated else rows)


def _qkv_weights(block: Block) -> tuple[Tensor, Tensor, Tensor]:
    """Weights of a block by head: q and k H Dqk E, v H Dv E; no heads where there is no attention."""
    if block.attn is None:
        return (torch.zeros(0, 0, 1),) * 3
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
        if block.attn is not None:
            writers.append(_scaled(block.attn.proj, block.ls1))
        if block.mlp is not None:
            writers.append(_scaled(block.mlp.fc2, block.ls2))
    return writers


def _scaled(layer: nn.Linear, behind: nn.Module) -> Tensor:
    return behind.gamma[:, None] * layer.weight if isinstance(behind, LayerScale) else layer.weight


def _shares(scores: Tensor) -> Tensor:
    # all-zero scores (a dead layer) say nothing about any part: equal shares
    total = scores.sum()
    return scores / total if total > 0 else torch.full_like(scores, 1 / max(len(scores), 1))
