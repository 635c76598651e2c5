"""Attention of one image as maps over its patches: every head, and rollout."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import torch
from jaxtyping import Float
from torch import Tensor

from analysis.capture import capture
from analysis.rollout import rollout
from analysis.vit import Architecture, ViT

PATCH_MEAN = "mean over patches"


@dataclass(frozen=True)
class AttentionMaps:
    """Where the rows named by `query_rows(arch)` look, in every head, and what the model says.

    `blocks[l][h][r]` is the attention of row r to the patches, Y X. `on_prefix[l][h][r]` is the
    rest: the share that stays on the prefix tokens. `probabilities` is empty without a head.
    """

    blocks: tuple[Float[Tensor, "H R Y X"], ...]
    on_prefix: tuple[Float[Tensor, "H R"], ...]
    probabilities: Float[Tensor, " num_classes"]

    def top(self, count: int = 5) -> list[tuple[int, float]]:
        """The likeliest classes with their probabilities, likeliest first."""
        best = self.probabilities.topk(min(count, len(self.probabilities)))
        return list(zip(best.indices.tolist(), best.values.tolist(), strict=True))


def query_rows(arch: Architecture) -> tuple[str, ...]:
    """Names of the rows that maps are read from: each prefix token, then the mean over patches."""
    return (*arch.prefix_names, PATCH_MEAN)


def default_row(arch: Architecture) -> int:
    """The row that the prediction is read from: the class token, or the patches where they are pooled."""
    return 0 if arch.pool == "token" else len(arch.prefix_names)


def attention_maps(model: ViT, image: Float[Tensor, "C Y X"]) -> AttentionMaps:
    """Maps of all heads for one image, holding the N x N attention of one block at a time."""
    blocks, on_prefix = [], []
    prefix = len(model.arch.prefix_names)
    with capture(model) as record:
        for block in record(image[None]):
            rows = _rows(block.attention[0], prefix)  # H R N
            blocks.append(_patches(rows, model.arch))
            on_prefix.append(rows[..., :prefix].sum(dim=-1))
        logits = record.logits[0]
    known = model.arch.num_classes > 0
    return AttentionMaps(tuple(blocks), tuple(on_prefix), logits.softmax(-1) if known else logits[:0])


def rollout_maps(
    model: ViT,
    image: Float[Tensor, "C Y X"],
    *,
    fuse: str = "mean",
    discard: float = 0.0,
    blocks: int | None = None,
) -> Float[Tensor, "R Y X"]:
    """Rollout of one image through the first `blocks` blocks (all by default), for the same rows.

    Raises:
        ValueError: unknown fusion, discard outside [0, 1), or no such number of blocks.
    """
    depth = model.arch.depth
    if blocks is not None and not 1 <= blocks <= depth:
        raise ValueError(f"rollout goes through 1 to {depth} blocks of this model, got {blocks}")
    prefix = len(model.arch.prefix_names)
    with capture(model) as record:

        def maps() -> Iterator[Tensor]:
            for block in islice(record(image[None]), blocks):
                yield block.attention

        total = rollout(maps(), fuse=fuse, discard=discard, prefix=prefix)[0]
    return _patches(_rows(total, prefix), model.arch)


def _rows(attention: Float[Tensor, "*H N N"], prefix: int) -> Float[Tensor, "*H R N"]:
    return torch.cat([attention[..., :prefix, :], attention[..., prefix:, :].mean(-2, keepdim=True)], dim=-2)


def _patches(rows: Float[Tensor, "*H R N"], arch: Architecture) -> Float[Tensor, "*H R Y X"]:
    return rows[..., len(arch.prefix_names) :].unflatten(-1, arch.grid)
