"""Attention of one image as maps over its patches: per head from any query token, and rollout.

That is so for a model that merges, too: see `analysis.attention.tokens`. A block without attention has no
maps. A reading is a vector of weights over query tokens that sums to one: it picks a single token's row of an
attention map, or a mean of several rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from analysis.attention.rollout import mixed, rollout_from
from analysis.attention.tokens import averaging, over_patches
from analysis.attention.trace import Trace, mean_of_patches, one_token, to_patches, trace
from analysis.vit import Architecture, ViT


@dataclass(frozen=True)
class AttentionMaps:
    """Attention of the rows of `row_readings(arch)`, in every head.

    `blocks[l][h][r]` is the attention of row r to the patches, Y X. `on_prefix[l][h][r]` is the
    rest: the share that goes to the prefix tokens.
    """

    blocks: tuple[Float[Tensor, "H R Y X"], ...]
    on_prefix: tuple[Float[Tensor, "H R"], ...]


@dataclass(frozen=True)
class TokenMaps:
    """Attention from one reading to the patches and from the patches to it, in every head.

    `looks[l][h]` Y X is its attention to each patch, `on_prefix[l][h]` the share that goes to the
    prefix tokens; `seen[l][h]` Y X is the attention of each patch to it.
    """

    looks: tuple[Float[Tensor, "H Y X"], ...]
    on_prefix: tuple[Float[Tensor, " H"], ...]
    seen: tuple[Float[Tensor, "H Y X"], ...]


def default_row(arch: Architecture) -> int:
    """Index of the row the prediction depends on: the class token, or the patches if they are pooled."""
    return 0 if arch.pool in ("token", "both") else len(arch.prefix_names)


def row_readings(arch: Architecture) -> Float[Tensor, "R N"]:
    """Readings, as weights of the query tokens: each prefix token, then the mean over patches."""
    prefix = range(len(arch.prefix_names))
    return torch.stack([*(one_token(arch, token) for token in prefix), mean_of_patches(arch)])


def attention_maps(model: ViT, image: Float[Tensor, "C Y X"]) -> AttentionMaps:
    """Maps of all heads for one image; only one block's N x N attention is in memory at a time."""
    return maps_of(trace(model, image))


def maps_of(seen: Trace) -> AttentionMaps:
    """`attention_maps` of an image whose trace is available."""
    read, prefix = row_readings(seen.arch), len(seen.arch.prefix_names)
    rows = [read @ seen.attention(block) for block in range(seen.arch.depth)]  # each H R N
    return AttentionMaps(
        tuple(to_patches(values, seen.arch) for values in rows),
        tuple(values[..., :prefix].sum(dim=-1) for values in rows),
    )


def token_maps(seen: Trace, read: Float[Tensor, " N"]) -> TokenMaps:
    """Attention from and to a reading, the mean of the tokens weighted by `read`."""
    looks, on_prefix, looked_at = [], [], []
    prefix = len(seen.arch.prefix_names)
    for block in range(seen.arch.depth):
        attention = seen.attention(block)  # H N N
        row = read @ attention  # H N
        looks.append(to_patches(row, seen.arch))
        on_prefix.append(row[..., :prefix].sum(dim=-1))
        looked_at.append(to_patches(attention @ read, seen.arch))
    return TokenMaps(tuple(looks), tuple(on_prefix), tuple(looked_at))


def rollout_maps(model: ViT, image: Float[Tensor, "C Y X"]) -> Float[Tensor, "R Y X"]:
    """`rollout_of` one image, with the mean over heads, read from the rows of `row_readings`."""
    return rollout_of(trace(model, image), row_readings(model.arch))


def rollout_of(
    seen: Trace,
    read: Float[Tensor, "R N"],
    *,
    fuse: str = "mean",
    discard: float = 0.0,
    blocks: int | None = None,
) -> Float[Tensor, "R Y X"]:
    """Rollout from each reading, through the first `blocks` blocks (all by default).

    Merging is a factor as well: the mean over the patches of a token, whose rows sum to one. What is
    discarded are entries of tokens.

    Raises:
        ValueError: unknown fusion, discard outside [0, 1), or no such number of blocks.
    """
    depth, prefix = seen.arch.depth, len(seen.arch.prefix_names)
    if blocks is not None and not 1 <= blocks <= depth:
        raise ValueError(f"rollout can use the first 1 to {depth} blocks of this model, got {blocks}")

    def step(block: int) -> Float[Tensor, "N0 N0"]:
        factor = mixed(seen.token_attention(block)[None], fuse, discard, prefix)[0]
        return over_patches(factor, seen.members[block])

    left = seen.members[blocks or depth]
    read = read if left is None else read @ averaging(left)
    return to_patches(rollout_from(read, map(step, reversed(range(blocks or depth)))), seen.arch)
