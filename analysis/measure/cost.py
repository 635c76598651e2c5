"""Parameters, MACs and bytes of a model, computed from its `Architecture`."""

from __future__ import annotations

import math
from dataclasses import dataclass

from analysis.vit import Architecture, BlockWidths


@dataclass(frozen=True)
class PartCost:
    """Parameters and multiply-accumulates (MACs, for one image) of one part of a network."""

    params: int
    macs: int


@dataclass(frozen=True)
class BlockCost:
    """Cost of one block; `attention` covers qkv, the two attention products and proj."""

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

    MACs per block: N E H (2 Dqk + Dv) + H N^2 (Dqk + Dv) + N H Dv E + 2 N E F. A last block that
    computes only M tokens takes M E H (2 Dqk + Dv) + 2 H M N E + M H Dv E + 2 M E F. Norms,
    activations, softmax and bias additions count zero, as in the papers and in torch's
    FlopCounterMode (which counts two FLOPs per MAC).
    """
    last = arch.depth - 1
    computed = (arch.computed_tokens if index == last else arch.num_tokens for index in range(arch.depth))
    blocks = tuple(_block(arch, *both) for both in zip(arch.blocks, computed, strict=True))
    return Cost(_stem(arch), blocks, _head(arch))


def _stem(arch: Architecture) -> PartCost:
    patches = math.prod(arch.grid)
    prefix = len(arch.prefix_names)
    weights = arch.embed_dim * arch.in_channels * math.prod(arch.patch_size)
    embedded = patches + (prefix if arch.pos_embed_prefix else 0)
    extra = _norm(arch) if arch.pre_norm else arch.embed_dim  # norm_pre, or the conv's bias
    return PartCost(weights + extra + (prefix + embedded) * arch.embed_dim, patches * weights)


def _block(arch: Architecture, widths: BlockWidths, computed: int) -> BlockCost:
    tokens, embed = arch.num_tokens, arch.embed_dim
    qkv_rows = widths.heads * (2 * widths.qk + widths.v)
    values = widths.heads * widths.v
    norm_and_scale = _norm(arch) + (embed if arch.layer_scale else 0)
    if computed == tokens:
        products = widths.heads * tokens**2 * (widths.qk + widths.v)
    else:  # products with the tokens themselves instead of keys and values
        products = 2 * widths.heads * computed * tokens * embed
    attention = PartCost(
        params=qkv_rows * (embed + arch.qkv_bias) + values * embed + embed + norm_and_scale,
        macs=embed * computed * (qkv_rows + values) + products,
    )
    mlp = PartCost(
        params=widths.mlp * (2 * embed + 1) + embed + norm_and_scale,
        macs=2 * computed * embed * widths.mlp,
    )
    return BlockCost(attention, mlp)


def _head(arch: Architecture) -> PartCost:
    heads = (2 if arch.distilled else 1) if arch.num_classes else 0
    weights = arch.embed_dim * arch.num_classes
    return PartCost(_norm(arch) + heads * (weights + arch.num_classes), heads * weights)


def _norm(arch: Architecture) -> int:
    """Parameters of one norm: the gain and, for LayerNorm, the bias."""
    return arch.embed_dim * (2 if arch.norm == "layer" else 1)
