"""The model in the form that runs fastest in ONNX Runtime: the tokens of all images as rows of one matrix.

A linear layer is then one Gemm with the weights as they are and the bias included. On a batch of matrices it
is a MatMul with turned weights, and an Add that reads and writes the whole result once more.
benchmarks/onnx_forms.py times this form against others.
"""

from __future__ import annotations

import copy
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from analysis.vit import Attention, Block, ViT


def flat_tokens(model: ViT) -> ViT:
    """A copy of a model that keeps its tokens as rows of one matrix, and computes the same [ours].

    The names of its modules stay; only the last block of a lean model (`skip_unread`) has, in place of
    `attn.qkv`, the layer `attn.q` and the matrices `attn.keys` and `attn.values`.
    """
    flat: Any = copy.deepcopy(model)
    for block in flat.blocks:
        block.__class__ = _FlatBlock
        block.attn.__class__ = _FlatAttention
        block.attn.tokens = model.arch.num_tokens
    if model.arch.skip_unread:
        last = flat.blocks[-1]
        last.__class__ = _FlatLeanBlock
        last.attn = _FlatLeanAttention(last.attn, model.arch.num_tokens, model.arch.computed_tokens)
    flat.__class__ = _FlatViT
    return flat


def flat_block(block: Block, tokens: int) -> nn.Module:
    """A copy of one block in that form, by itself: from B N E, of `tokens` tokens, to rows BN E."""
    flat: Any = copy.deepcopy(block)
    flat.__class__, flat.attn.__class__, flat.attn.tokens = _FlatBlock, _FlatAttention, tokens
    return nn.Sequential(nn.Flatten(0, 1), flat).eval()


class _FlatAttention(Attention):
    """Attention within each image, of `tokens` rows each."""

    tokens: int

    def forward(self, x: Float[Tensor, "BN E"], count: int | None = None) -> Float[Tensor, "BN E"]:
        q, k, v = (
            part.view(-1, self.tokens, self.heads, part.shape[-1] // self.heads).transpose(1, 2)
            for part in self.qkv(x).split(self.qkv_rows, dim=-1)
        )
        out = self.weights(q, k) @ v  # B H N Dv
        return self.proj(out.transpose(1, 2).reshape(-1, self.heads * self.v_dim))


class _FlatBlock(Block):
    def forward(self, x: Float[Tensor, "BN E"], count: int | None = None) -> Float[Tensor, "BN E"]:
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))


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
        self.proj = attn.proj

    def forward(self, x: Float[Tensor, "BN E"]) -> Float[Tensor, "BC E"]:
        images = x.view(-1, self.tokens, x.shape[-1])  # B N E
        q = self.q(images[:, : self.count].flatten(0, 1))  # BC HDqk
        q = self.keys @ q.view(-1, self.heads, self.keys.shape[-1]).permute(1, 2, 0)  # H E BC
        q = q.unflatten(-1, (-1, self.count)).permute(2, 0, 3, 1).flatten(1, 2)  # B HC E
        mixed = (q @ images.transpose(1, 2)).softmax(dim=-1) @ images  # B HC E
        mixed = mixed.unflatten(1, (self.heads, self.count)).permute(1, 3, 0, 2).flatten(2)  # H E BC
        out = self.values @ mixed  # H Dv BC
        out = out if self.values_bias is None else out + self.values_bias
        return self.proj(out.permute(2, 0, 1).flatten(1))


class _FlatLeanBlock(Block):
    attn: _FlatLeanAttention  # type: ignore[assignment]  # called in the same way

    def forward(self, x: Float[Tensor, "BN E"], count: int | None = None) -> Float[Tensor, "BC E"]:
        first = x.view(-1, self.attn.tokens, x.shape[-1])[:, : self.attn.count].flatten(0, 1)
        x = first + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))


class _FlatViT(ViT):
    def forward(self, images: Float[Tensor, "B C Y X"]) -> Float[Tensor, "B K"]:
        x = self.embed(images).flatten(0, 1)  # B*N E
        for block in self.blocks:
            x = block(x)
        return self.classify(x.view(-1, self.arch.computed_tokens, self.arch.embed_dim))
