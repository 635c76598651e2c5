"""The model in operators that every runtime has: for ncnn, which cannot sort, gather or slice in steps.

ONNX files merge tokens in the same way.

What `Merge` chooses by sorting is found by comparing all pairs, and what it moves by an index is multiplied
by a matrix of zeros and ones. Rotary positions turn two halves of the channels in place of every second one.
That is a little more arithmetic, and the same result.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
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

    The patch tokens are taken as H pairs of an even and an odd place, side by side in a row; of an odd number
    the last pair is filled up with zeros, which never merge and come last. K patch tokens stay.

    ncnn computes in half precision on phones. There distances tie, and of almost equal ones another may
    count; but no number is too large, and as many tokens merge as should.
    """

    even_steps: Tensor
    odd_steps: Tensor
    earlier: Tensor
    later: Tensor
    each: Tensor
    places: Tensor
    spots: Tensor

    def __init__(self, merge: Merge, tokens: int) -> None:
        super().__init__()
        self.prefix, self.count, self.norm = merge.prefix, merge.count, merge.norm
        patches = tokens - merge.prefix
        self.filled, pairs = patches % 2, (patches + 1) // 2
        steps = STEP * torch.arange(pairs).float()
        self.register_buffer("even_steps", steps)  # H
        self.register_buffer("odd_steps", torch.where(torch.arange(pairs) < patches // 2, steps, _FAR))
        self.register_buffer("earlier", torch.ones(pairs, pairs).triu(diagonal=1))  # H H
        self.register_buffer("later", self.earlier.T.clone())
        self.register_buffer("each", torch.ones(pairs, 1))  # sums as products: pnnx would sum over no axis
        self.register_buffer("places", 2 * torch.arange(pairs).float())  # of the even ones, H
        self.register_buffer("spots", torch.arange(patches - self.count).float()[:, None])  # K 1

    def forward(
        self, x: Float[Tensor, "B N E"], sizes: Tensor | Placed | None, read: Tensor | None
    ) -> tuple[Float[Tensor, "B M E"], Float[Tensor, "B M"]]:
        patches = tokens_between(x, self.prefix, x.shape[1])
        sizes, _ = sizes_and_places(sizes)  # `plain_operators` refuses models that have places
        counts = torch.ones_like(x[..., 0]) if sizes is None else sizes
        even, odd = self._pairs(patches)
        own_even, own_odd = self._pairs(counts[:, self.prefix :, None])  # B H 1
        into, gone = self._chosen(patches, read)
        into = into.transpose(1, 2)  # even, odd
        total = own_even + into @ own_odd
        mean = (even * own_even + into @ (odd * own_odd)) / total
        rows, numbers = _alternating(mean, odd), _alternating(total, own_odd)  # B 2H E, B 2H 1
        left = self._left(gone)
        merged, total = left @ rows, (left @ numbers).flatten(1)
        if not self.prefix:
            return merged, total
        first = tokens_between(x, 0, self.prefix)
        return torch.cat([first, merged], dim=1), torch.cat([counts[:, : self.prefix], total], dim=1)

    def _pairs(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What stands in even and in odd places: B P C -> B H C each."""
        batch, _, width = x.shape
        rows = x.flatten(1)
        if self.filled:
            rows = F.pad(rows, (0, width))
        rows = rows.view(batch, -1, 2 * width)
        return rows[..., :width], rows[..., width:]

    def _chosen(self, patches: Tensor, read: Tensor | None) -> tuple[Tensor, Tensor]:
        """Which odd tokens merge into which even ones, B odd even, and which are gone then, B odd 1."""
        even, odd = self._pairs(self.norm(patches))
        apart = 1 - odd @ even.transpose(1, 2) / patches.shape[-1]
        if read is not None:
            even, odd = self._pairs(merge_weight(read[:, self.prefix :])[..., None])
            apart = apart * odd * even.transpose(1, 2)
        apart = apart + self.even_steps
        nearest = -F.max_pool1d(-apart, apart.shape[-1])  # B odd 1: the least, whose own operator pnnx lacks
        into = (_sharp(nearest - apart) + 1).relu()  # one where the nearest is
        into = into / (into @ self.each)
        order = nearest + self.odd_steps[:, None]
        # B odd odd: one where the second is nearer, or where both tie and it comes first, so that no two
        # have one rank
        nearer = (_sharp(order - order.transpose(1, 2)) + self.later).clamp(0, 1)
        gone = (self.count - nearer @ self.each).clamp(0, 1)
        return into * gone, gone

    def _left(self, gone: Tensor) -> Tensor:
        """The tokens that stay, in order, as rows of zeros with a one: B K 2H."""
        place = self.places[:, None] - (gone.transpose(1, 2) @ self.earlier).transpose(1, 2)
        odd = (place + 1) * (1 - gone) - gone  # nowhere, if gone
        places = _alternating(place, odd).transpose(1, 2)  # B 1 2H
        return (1 - (places - self.spots).abs()).relu()


def rows_between(x: Float[Tensor, "BN E"], tokens: int, begin: int, end: int) -> Float[Tensor, "BM E"]:
    """Of the `tokens` rows of each image those from `begin` to `end`.

    They are cut out of one row for each image: pnnx takes the tokens of B N E for images here.
    """
    width = x.shape[-1]
    return x.view(-1, tokens * width)[:, begin * width : end * width].reshape(-1, width)


def tokens_between(x: Float[Tensor, "B N E"], begin: int, end: int) -> Float[Tensor, "B M E"]:
    """The tokens of each image from `begin` to `end`, cut out in the same way."""
    return rows_between(x.flatten(0, 1), x.shape[1], begin, end).view(-1, end - begin, x.shape[-1])


def _alternating(even: Tensor, odd: Tensor) -> Tensor:
    """B H C and B H C -> B 2H C."""
    return torch.cat([even, odd], dim=-1).reshape(even.shape[0], -1, even.shape[-1])


_FAR = 9.0  # distances are at most 2
# Half precision has this number; distances that are not equal differ by more than the inverse of its square.
_SHARP = 6e4


def _sharp(difference: Tensor) -> Tensor:
    """Zero where there is no difference, else at least 1 in size."""
    return (difference * _SHARP).clamp(-1, 1) * _SHARP
