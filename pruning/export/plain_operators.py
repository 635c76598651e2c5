"""The model in operators that every runtime has, for those that cannot sort, gather or slice in steps (ncnn).

What `Merge` chooses by sorting is found by comparing all pairs, and what it moves by an index is multiplied
by a matrix of zeros and ones. Rotary positions turn two halves of the channels in place of every second one.
That is a little more arithmetic, and the same result.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from analysis.vit import STEP, Attention, Merge, Placed, ViT, merge_weight, sizes_and_places


def plain_operators(model: ViT) -> ViT:
    """A copy of a model in products, sums and comparisons, which computes the same [ours].

    Raises:
        ValueError: scores depend on the places of tokens that merge, which would have to be gathered.
    """
    if model.arch.merges and (model.arch.rope or model.arch.position_bias):
        raise ValueError(
            "a model that merges tokens and whose attention depends on places (rotary positions, position "
            "bias) needs a runtime that gathers: export it as onnx, or prune it without tokens"
        )
    plain: Any = copy.deepcopy(model)
    for block, tokens in zip(plain.blocks, model.arch.tokens, strict=False):
        if block.attn is not None and model.arch.rope:
            _halve(block.attn)
        if block.merge is not None:
            block.merge = SortlessMerge(block.merge, tokens)
    return plain


def _halve(attn: Any) -> None:
    """Move the first channel of every plane of queries and keys to the front half of its head."""
    order = torch.arange(attn.qk_dim).view(-1, 2).T.flatten()
    of_heads = (torch.arange(2 * attn.heads)[:, None] * attn.qk_dim + order).flatten()
    rows = torch.cat([of_heads, torch.arange(len(of_heads), sum(attn.qkv_rows))])
    for layer, index in ((attn.qkv, rows), (attn.q_norm, order), (attn.k_norm, order)):
        for parameter in layer.parameters():
            parameter.data = parameter.data[index]
    attn.__class__ = _HalvedAttention


class _HalvedAttention(Attention):
    """`Attention` whose planes of queries and keys are channels p and p + Dqk/2 of a head."""

    def _turned(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        a, b = x[:, :, self.prefix :].chunk(2, dim=-1)
        turned = torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)
        # pnnx goes on for ever where it meets an empty tensor
        return torch.cat([x[:, :, : self.prefix], turned], dim=2) if self.prefix else turned


class SortlessMerge(nn.Module):
    """`Merge` of `tokens` tokens, in products, sums and comparisons that are differences cut off at 0 and 1.

    Of P patch tokens, those in odd places may merge into those in even ones; `bar` P P keeps all other pairs
    apart. K patch tokens stay.
    """

    bar: Tensor
    steps: Tensor
    places: Tensor

    def __init__(self, merge: Merge, tokens: int) -> None:
        super().__init__()
        self.prefix, self.count, self.norm = merge.prefix, merge.count, merge.norm
        at = torch.arange(tokens - merge.prefix)
        pairs = (at[:, None] % 2 == 1) & (at % 2 == 0)
        steps = STEP * (at // 2).float()
        self.register_buffer("bar", torch.where(pairs, 0.0, _FAR) + steps)  # P P
        self.register_buffer("steps", steps)
        self.register_buffer("places", at.float())
        self.register_buffer("earlier", torch.ones_like(self.bar).triu(diagonal=1))  # from P to P

    def forward(
        self, x: Float[Tensor, "B N E"], sizes: Tensor | Placed | None, read: Tensor | None
    ) -> tuple[Float[Tensor, "B M E"], Float[Tensor, "B M"]]:
        first, patches = x[:, : self.prefix], x[:, self.prefix :]
        sizes, _ = sizes_and_places(sizes)  # `plain_operators` refuses models that have places
        chosen = self._chosen(patches, read)  # B K P
        if sizes is not None:
            chosen = chosen * sizes[:, None, self.prefix :]
        total = chosen.sum(dim=-1)  # B K
        merged = (chosen / total[..., None]) @ patches
        if not self.prefix:
            return merged, total
        before = torch.ones_like(first[..., 0]) if sizes is None else sizes[:, : self.prefix]
        return torch.cat([first, merged], dim=1), torch.cat([before, total], dim=1)

    def _chosen(self, patches: Tensor, read: Tensor | None) -> Tensor:
        """Which patch tokens each that stays is made of, as ones and zeros: B K P."""
        apart = self._apart(patches, read)
        nearest = apart.amin(dim=-1)  # B P
        into = _at_least(nearest[..., None], apart)  # B P P: one where the nearest is
        into = into / into.sum(dim=-1, keepdim=True)
        order = nearest + self.steps
        rank = (1 - _at_least(order[:, None], order[..., None])).sum(dim=-1)  # B P: how many are nearer
        gone = (self.count - rank).clamp(0, 1)
        place = self.places - gone @ self.get_buffer("earlier")  # among those that stay
        spots = self.places[: len(self.places) - self.count, None]  # K 1
        own = (1 - (place[:, None] - spots).abs()).clamp(0, 1) * (1 - gone)[:, None]  # B K P
        return own + own @ (into * gone[..., None]).transpose(1, 2)

    def _apart(self, patches: Tensor, read: Tensor | None) -> Tensor:
        """How far apart every two patch tokens are, B P P, as `Merge.pairs` has it."""
        metric = self.norm(patches)
        apart = 1 - metric @ metric.transpose(1, 2) / patches.shape[-1]
        if read is not None:
            weight = merge_weight(read[:, self.prefix :])
            apart = apart * weight[..., None] * weight[:, None]
        return apart + self.bar


_FAR = 9.0  # distances are at most 2
_SHARP = 1e9  # two distances that are not equal differ by far more than its inverse


def _at_least(a: Tensor, b: Tensor) -> Tensor:
    """One where a is b or larger, else zero."""
    return ((a - b) * _SHARP + 1).clamp(0, 1)
