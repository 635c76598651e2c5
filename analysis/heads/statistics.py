"""Per-image statistics of a head's attention rows: confidence, entropy, distance, mass on prefix tokens.

None of them needs labels. A row is the attention of one query token to all tokens; it sums to one. In a
model that merges, rows are those of prefix tokens and patches all the same (`patch_attention`).
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from analysis.attention import BlockActivations
from analysis.vit import Architecture


def confidence(block: BlockActivations, arch: Architecture) -> Float[Tensor, "B H"]:
    """Largest entry of each row (Voita et al. 2019), mean over rows, 0 to 1."""
    return block.patch_attention.amax(dim=-1).mean(dim=-1)


def entropy(block: BlockActivations, arch: Architecture) -> Float[Tensor, "B H"]:
    """Entropy of each row in bits, mean over rows: 0 for a single token, log2 N for uniform attention."""
    return bits(block.patch_attention)


def bits(rows: Float[Tensor, "*B N M"]) -> Float[Tensor, "*B"]:
    """Entropy of rows of probabilities in bits, mean over rows."""
    return torch.special.entr(rows).sum(dim=-1).double().mean(dim=-1) / math.log(2)


def attended_distance(block: BlockActivations, arch: Architecture) -> Float[Tensor, "B H"]:
    """Mean distance between query patch and attended patch, weighted by attention, in units of patches.

    As in Dosovitskiy et al. 2021 (figure 7), but in patches; attention from and to prefix tokens has no
    distance and is left out, so that every pair of patches is weighted by its attention [ours].
    """
    prefix = len(arch.prefix_names)
    between = block.patch_attention[..., prefix:, prefix:]  # B H P P
    positions = torch.cartesian_prod(*(torch.arange(size) for size in arch.grid)).to(between)  # P 2
    distances = torch.cdist(positions, positions)
    total = between.sum(dim=(-2, -1)).clamp_min(torch.finfo(between.dtype).tiny)
    return (between * distances).sum(dim=(-2, -1)) / total


def prefix_mass(block: BlockActivations, arch: Architecture) -> Float[Tensor, "B H"]:
    """Share of attention on prefix tokens, mean over rows, 0 to 1; 0 if the model has none."""
    return block.patch_attention[..., : len(arch.prefix_names)].sum(dim=-1).mean(dim=-1)
