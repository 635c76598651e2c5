"""Score attention rollout against object masks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from analysis.attention.capture import BlockActivations, capture
from analysis.attention.objects import mass_on_object, patch_cover, points_at_object
from analysis.attention.rollout import mixed, product
from analysis.attention.tokens import averaging, over_patches
from analysis.attention.trace import to_patches
from analysis.vit import ViT


@dataclass(frozen=True)
class RolloutScore:
    """Mean share of the rollout's mass on the object, and number of images whose peak is on it."""

    mass: float
    hits: int
    images: int

    @property
    def pointing(self) -> float:
        """Share of the images whose peak is on the object."""
        return self.hits / self.images


@torch.no_grad()
def rollout_on_object(
    model: ViT,
    batches: Iterable[tuple[Float[Tensor, "B C Y X"], Bool[Tensor, "B Y X"]]],
    read: Float[Tensor, " N"],
    fuse: str = "mean",
) -> RolloutScore:
    """Mass on the object and pointing game of attention rollout, for the tokens weighted by `read`.

    `batches` are images with their object masks, as `objects.with_masks` yields them.

    Raises:
        ValueError: no images, or an unknown fusion.
    """
    mass, hits, images = 0.0, 0, 0
    prefix = len(model.arch.prefix_names)
    with capture(model) as record:
        for batch, masks in batches:
            total = product(_steps(record(batch), fuse, prefix))  # B N0 N0
            planes = to_patches(read @ total, model.arch)  # B rows columns
            cover = patch_cover(masks, model.arch)
            mass += float(mass_on_object(planes, cover).sum())
            hits += int(points_at_object(planes, cover).sum())
            images += len(batch)
    if not images:
        raise ValueError("rollout on objects is measured on images with masks, got none")
    return RolloutScore(mass / images, hits, images)


def _steps(blocks: Iterable[BlockActivations], fuse: str, prefix: int) -> Iterator[Float[Tensor, "B N0 N0"]]:
    """The blocks' factors in the rollout between patches, and what is merged behind the last one."""
    left = None
    for block in blocks:
        left = block.left
        yield over_patches(mixed(block.attention, fuse, 0.0, prefix), block.members)
    if left is not None:
        yield averaging(left)
