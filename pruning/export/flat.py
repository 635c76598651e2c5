"""The model in the form that runs fastest in ONNX Runtime: the tokens of all images as rows of one matrix.

A linear layer is then one Gemm with the weights as they are and the bias included. On a batch of matrices it
is a MatMul with turned weights, and an Add that reads and writes the whole result once more.
benchmarks/onnx_forms.py times this form against others.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from analysis.vit import Attention, Block, Placed, ViT, first_sizes, sizes_and_places
from pruning.export.plain_operators import SortlessMerge, rows_between, tokens_between


def flat_tokens(model: ViT) -> ViT:
    """A copy of a model that keeps its tokens as rows of one matrix, and computes the same [ours].

    The names of its modules stay; only the last block of a lean model (`skip_unread`) has, in place of
    `attn.qkv`, the layer `attn.q` and the matrices `attn.keys` and `attn.values`.
    """
    flat: Any = copy.deepcopy(model)
    for block, tokens in zip(flat.blocks, model.arch.tokens, strict=False):
        _flatten(block, tokens)
    last = flat.blocks[-1]
    if model.arch.skip_unread and model.arch.absorbs and last.attn is not None:
        last.attn = _FlatLeanAttention(last.attn, last.tokens, model.arch.computed_tokens)
    flat.__class__ = _FlatViT
    return flat


def flat_block(block: Block, tokens: int, fewer: bool = False) -> nn.Module:
    """A copy of one block in that form, by itself: from B N E, of `tokens` tokens, to rows BN E.

    Where they are `fewer` than the model's, others have merged into them: they come with sizes and places.
    """
    flat: Any = copy.deepcopy(block)
    _flatten(flat, tokens)
    return _Alone(flat, fewer).eval()


def _flatten(block: Any, tokens: int) -> None:
    block.__class__, block.tokens = _FlatBlock, tokens
    if block.merge is not None and not block.merge.keeps_places:
        block.merge = SortlessMerge(block.merge, tokens)
    if block.attn is not None:
        block.attn.__class__, block.attn.tokens = _FlatAttention, tokens


def _mean(x: Float[Tensor, "B N E"]) -> Float[Tensor, "B 1 E"]:
    """The mean over N as a product: pnnx would take it over another axis."""
    return x.new_full((1, 1, x.shape[1]), 1 / x.shape[1]) @ x


class _FlatAttention(Attention):
    """Attention within each image, of `tokens` rows each."""

    tokens: int

    def forward(
        self, x: Float[Tensor, "BN E"], sizes: Tensor | Placed | None = None, count: int | None = None
    ) -> tuple[Float[Tensor, "BN E"], Float[Tensor, "B N"] | None]:
        numbers, places = sizes_and_places(sizes)
        q, k, v = (
            part.view(-1, self.tokens, self.heads, part.shape[-1] // self.heads).transpose(1, 2)
            for part in self.qkv(x).split(self.qkv_rows, dim=-1)
        )
        q, k = self.placed(q, k, places)
        weights = self.weights(q, k, numbers, places)
        out = weights @ v  # B H N Dv
        read = _mean(weights[:, :, 0]).flatten(1) if self.reads else None
        return self.proj(self.norm(out.transpose(1, 2).reshape(-1, self.heads * self.v_dim))), read


class _FlatBlock(Block):
    """A block of `tokens` tokens; its second half, which treats every row alike, is as it was."""

    tokens: int

    def attend(
        self,
        x: Float[Tensor, "BN E"],
        sizes: Tensor | Placed | None = None,
        count: int | None = None,
        places: list[Tensor] | None = None,
    ) -> tuple[Float[Tensor, "BM E"], Tensor | Placed | None]:
        if self.attn is None:
            return self._first(x, sizes, count)
        added, read = self.attn(self.norm1(x), sizes)
        lean = isinstance(self.attn, _FlatLeanAttention)
        if lean:  # which gives the first tokens alone
            x, sizes = self._first(x, sizes, count)
        x = x + self.ls1(added)
        if self.merge is None:
            return (x, sizes) if lean else self._first(x, sizes, count)
        whole = x.view(-1, self.tokens, x.shape[-1])
        if places is not None:
            places.append(self.merge.places(whole, read))
        merged, sizes = self.merge(whole, sizes, read)
        return merged.flatten(0, 1), sizes

    def _first(
        self, x: Float[Tensor, "BN E"], sizes: Tensor | Placed | None, count: int | None
    ) -> tuple[Float[Tensor, "BM E"], Tensor | Placed | None]:
        """The first `count` tokens of each image, or all."""
        if count is None:
            return x, sizes
        return rows_between(x, self.tokens, 0, count), first_sizes(sizes, count)


class _Alone(nn.Module):
    """A block by itself, from the tokens of images; `fewer` of them than images have stand for some each."""

    def __init__(self, block: _FlatBlock, fewer: bool) -> None:
        super().__init__()
        self.block, self.fewer = block, fewer

    def forward(self, x: Float[Tensor, "B N E"]) -> Float[Tensor, "BN E"]:
        sizes: Tensor | Placed | None = None
        attn = self.block.attn
        if self.fewer and attn is not None:
            sizes = x[:, :, 0].square() + 1  # no constant, which a runtime would work out beforehand
            if attn.rope is not None or attn.position_bias is not None:
                sizes = sizes, torch.arange(x.shape[1]).expand(x.shape[0], -1)
        return self.block(x.flatten(0, 1), sizes)[0]


class _FlatLeanAttention(nn.Module):
    """Attention of the first `count` tokens of each image, as `Attention` has it, with its weights split.

    What multiplies whole heads has one matrix for each: `keys` H E Dqk (times the scale) and `values` H Dv E.
    They stand on the left of the products: quantisers take a constant on the right for a linear layer.
    """

    def __init__(self, attn: Attention, tokens: int, count: int) -> None:
        super().__init__()
        self.heads, self.tokens, self.count = attn.heads, tokens, count
        w_q, w_k, w_v = (part.clone() for part in attn.qkv.weight.detach().split(attn.qkv_rows))
        self.q = nn.Linear(w_q.shape[1], w_q.shape[0], bias=attn.qkv.bias is not None)
        self.q.weight = nn.Parameter(w_q)
        self.keys = nn.Parameter(w_k.unflatten(0, (attn.heads, -1)).mT * attn.scale)
        self.values = nn.Parameter(w_v.unflatten(0, (attn.heads, -1)))
        self.values_bias = None
        if attn.qkv.bias is not None:  # that of the keys adds a constant to all scores of a query
            b_q, _, b_v = (part.clone() for part in attn.qkv.bias.detach().split(attn.qkv_rows))
            self.q.bias = nn.Parameter(b_q)
            self.values_bias = nn.Parameter(b_v.view(attn.heads, -1, 1))
        self.norm, self.proj = attn.norm, attn.proj

    def forward(
        self, x: Float[Tensor, "BN E"], sizes: Float[Tensor, "B N"] | None = None
    ) -> tuple[Float[Tensor, "BC E"], None]:
        images = x.view(-1, self.tokens, x.shape[-1])  # B N E
        q = self.q(rows_between(x, self.tokens, 0, self.count))  # BC HDqk
        q = self.keys @ q.view(-1, self.heads, self.keys.shape[-1]).permute(1, 2, 0)  # H E BC
        q = q.unflatten(-1, (-1, self.count)).permute(2, 0, 3, 1).flatten(1, 2)  # B HC E
        scores = q @ images.transpose(1, 2)  # B HC N
        scores = scores if sizes is None else scores + sizes.log()[:, None]
        mixed = scores.softmax(dim=-1) @ images  # B HC E
        mixed = mixed.unflatten(1, (self.heads, self.count)).permute(1, 3, 0, 2).flatten(2)  # H E BC
        out = self.values @ mixed  # H Dv BC
        out = out if self.values_bias is None else out + self.values_bias
        return self.proj(self.norm(out.permute(2, 0, 1).flatten(1))), None


class _FlatViT(ViT):
    def _behind(self, x: Float[Tensor, "B N E"], begin: int) -> Float[Tensor, "B M E"]:
        if not begin:
            return x
        return tokens_between(x, begin, x.shape[1])

    def _mean(
        self, tokens: Float[Tensor, "B N E"], sizes: Float[Tensor, "B N"] | None
    ) -> Float[Tensor, "B E"]:
        if sizes is None:
            return _mean(tokens).flatten(1)
        return super()._mean(tokens, sizes)

    def forward(self, images: Float[Tensor, "B C Y X"]) -> Float[Tensor, "B K"]:
        x, sizes = self.embed(images).flatten(0, 1), None  # B*N E
        *before, last = self.blocks
        for block in before:
            x, sizes = block(x, sizes)
        x, sizes = last(x, sizes, self.arch.computed_tokens if self.arch.skip_unread else None)
        return self.classify(x.view(-1, self.arch.computed_tokens, self.arch.embed_dim), sizes)
