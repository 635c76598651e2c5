"""What a head's attention rows are like, image by image: how sharp, how far, how much on prefix tokens.

None of it needs labels. A row is what one query token gives to all tokens; it sums to one.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from analysis.attention import BlockActivations
from analysis.vit import Architecture


def confidence(block: BlockActivations, arch: Architecture) -> Float[Tensor, "B H"]:
    """Mean over rows of their largest entry (Voita et al. 2019), 0 to 1."""
    return block.attention.amax(dim=-1).mean(dim=-1)


def entropy(block: BlockActivations, arch: Architecture) -> Float[Tensor, "B H"]:
    """Mean over rows of their entropy in bits: 0 looks at one token, log2 N at all alike."""
    return bits(block.attention)


def bits(rows: Float[Tensor, "*B N M"]) -> Float[Tensor, "*B"]:
    """Entropy of rows in bits, mean over rows."""
    return torch.special.entr(rows).sum(dim=-1).double().mean(dim=-1) / math.log(2)


def attended_distance(block: BlockActivations, arch: Architecture) -> Float[Tensor, "B H"]:
    """Mean distance from patch to attended patch, weighted by attention; the unit is a patch.

    As in Dosovitskiy et al. 2021 (figure 7), in patches; attention from and to prefix tokens has no
    distance and is left out, so that every pair of patches counts by the attention on it [ours].
    """
    prefix = len(arch.prefix_names)
    between = block.attention[..., prefix:, prefix:]  # B H P P
    places = torch.cartesian_prod(*(torch.arange(size) for size in arch.grid)).to(between)  # P 2
    far = torch.cdist(places, places)
    total = between.sum(dim=(-2, -1)).clamp_min(torch.finfo(between.dtype).tiny)
    return (between * far).sum(dim=(-2, -1)) / total


def prefix_mass(block: BlockActivations, arch: Architecture) -> Float[Tensor, "B H"]:
    """Mean over rows of the share that goes to prefix tokens, 0 to 1; 0 where there are none."""
    return block.attention[..., : len(arch.prefix_names)].sum(dim=-1).mean(dim=-1)
