"""Parameters, MACs and bytes of a model, computed from its `Architecture`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

from analysis.vit import Architecture, BlockWidths


@dataclass(frozen=True)
class PartCost:
    """Parameters and multiply-accumulates (MACs, for one image) of one part of a network."""

    params: int
    macs: int


@dataclass(frozen=True)
class BlockCost:
    """Cost of one block; `attention` covers qkv, the two attention products, proj and merging."""

    attention: PartCost
    mlp: PartCost

    @property
    def params(self) -> int:
        return self.attention.params + self.mlp.params

    @property
    def macs(self) -> int:
        return self.attention.macs + self.mlp.macs


@dataclass(frozen=True)
class Cost:
    """Cost of a network for one image; `stem` covers patch embedding, tokens and position embedding."""

    stem: PartCost
    blocks: tuple[BlockCost, ...]
    head: PartCost

    @property
    def params(self) -> int:
        """Number of parameters."""
        return self.stem.params + sum(block.params for block in self.blocks) + self.head.params

    @property
    def macs(self) -> int:
        """Multiply-accumulates for one image, both attention products included."""
        return self.stem.macs + sum(block.macs for block in self.blocks) + self.head.macs

    @property
    def gmacs(self) -> float:
        """MACs in units of 10^9; papers on ViTs call this number GFLOPs."""
        return self.macs / 1e9

    @property
    def bytes(self) -> int:
        """Bytes of the weights in float32."""
        return 4 * self.params


def cost(arch: Architecture) -> Cost:
    """Count parameters and MACs analytically (methods.md section 5).

    MACs per block: N E H (2 Dqk + Dv) + H N^2 (Dqk + Dv) + N H Dv E + 2 N E F, and 3 N E F where the MLP is
    gated. A last block that computes only M tokens takes M E H (2 Dqk + Dv) + 2 H M N E + M H Dv E + 2 M E F,
    or N E H (2 Dqk + Dv) + H M N (Dqk + Dv) + .. where keys have places or norms. A block that merges
    r of P patch tokens has N - r in its MLP and takes P^2 E / 4 more for distances (the product of both
    halves where P is odd) and (N - r) r E to move what merges. Norms, activations, softmax and bias
    additions count zero, as in the papers and in torch's FlopCounterMode (which counts two FLOPs per MAC).
    """
    blocks = tuple(block_cost(arch, *both) for both in zip(arch.blocks, pairwise(arch.tokens), strict=True))
    return Cost(_stem(arch), blocks, _head(arch))


def _stem(arch: Architecture) -> PartCost:
    patches = math.prod(arch.grid)
    prefix = len(arch.prefix_names)
    weights = arch.embed_dim * arch.in_channels * math.prod(arch.patch_size)
    embedded = patches + (prefix if arch.pos_embed_prefix else 0)
    extra = _norm(arch) if arch.pre_norm else arch.embed_dim  # norm_pre, or the conv's bias
    extra += _norm(arch) if arch.patch_norm else 0
    return PartCost(weights + extra + (prefix + embedded) * arch.embed_dim, patches * weights)


def block_cost(arch: Architecture, widths: BlockWidths, counts: tuple[int, int]) -> BlockCost:
    """Cost of one block of these widths that is given the first number of tokens and gives the second."""
    return BlockCost(_attention(arch, widths, *counts), _mlp(arch, widths, counts[1]))


def _attention(arch: Architecture, widths: BlockWidths, tokens: int, left: int) -> PartCost:
    if not widths.heads:
        return PartCost(0, 0)
    embed, lean = arch.embed_dim, tokens - widths.merge != left
    computed = left if lean else tokens
    qkv_rows = widths.heads * (2 * widths.qk + widths.v)
    values = widths.heads * widths.v
    if lean and arch.absorbs:  # products with the tokens themselves instead of keys and values
        given, products = computed, 2 * widths.heads * computed * tokens * embed
    else:
        given, products = tokens, widths.heads * computed * tokens * (widths.qk + widths.v)
    inner = 2 * _norm(arch, widths.qk) if arch.qk_norm else 0
    inner += _norm(arch, values) if arch.attn_norm else 0
    inner += widths.heads * arch.distances
    return PartCost(
        params=qkv_rows * (embed + arch.qkv_bias) + values * embed + embed + _norm_and_scale(arch) + inner,
        macs=embed * (given * qkv_rows + computed * values) + products + _merging(arch, widths, tokens),
    )


def _merging(arch: Architecture, widths: BlockWidths, tokens: int) -> int:
    """MACs of merging: the distances of all pairs, and a product that moves what merges."""
    patches = tokens - len(arch.prefix_names)
    odd, even = patches // 2, patches - patches // 2
    moved = (tokens - widths.merge) * widths.merge
    return (odd * even + moved) * arch.embed_dim if widths.merge else 0


def _mlp(arch: Architecture, widths: BlockWidths, tokens: int) -> PartCost:
    if not widths.mlp:
        return PartCost(0, 0)
    embed, rows = arch.embed_dim, 1 + arch.gated
    params = widths.mlp * (rows * (embed + 1) + embed) + embed + _norm_and_scale(arch)
    params += _norm(arch, widths.mlp) if arch.mlp_norm else 0
    return PartCost(params, (rows + 1) * tokens * embed * widths.mlp)


def _norm_and_scale(arch: Architecture) -> int:
    """Parameters of half a block's norm and LayerScale."""
    return _norm(arch) + (arch.embed_dim if arch.layer_scale else 0)


def _head(arch: Architecture) -> PartCost:
    heads = (2 if arch.distilled else 1) if arch.num_classes else 0
    weights = arch.feature_dim * arch.num_classes
    params = (_norm(arch) if arch.final_norm else 0) + heads * (weights + arch.num_classes)
    pool = _attention_pool(arch)
    return PartCost(params + pool.params, heads * weights + pool.macs)


def _attention_pool(arch: Architecture) -> PartCost:
    """Its query is the same for all images and is computed once."""
    width, neurons = arch.pool_width, arch.pool_mlp
    if not width:
        return PartCost(0, 0)
    tokens = arch.tokens[-1] - (0 if arch.pool_prefix else len(arch.prefix_names))
    rows, inner = 2 * width * arch.embed_dim, 2 * width * (width + neurons)  # kv; q, proj and the MLP
    params = width + rows + inner + 5 * width + neurons + _norm(arch, width)
    return PartCost(params, tokens * (rows + 2 * width) + inner)


def _norm(arch: Architecture, width: int = 0) -> int:
    """Parameters of a norm, of the stream if no width is given: the gain and, for LayerNorm, the bias."""
    return (width or arch.embed_dim) * (2 if arch.norm == "layer" else 1)
