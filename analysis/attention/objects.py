"""Score maps against object masks: the share of the map's mass on the object, and the pointing game.

A map has one value per patch, a mask one per pixel of the model's input. The value of a patch is taken
as spread evenly over its pixels [ours].
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from analysis.attention.capture import capture
from analysis.attention.trace import to_patches
from analysis.data import ImageSet
from analysis.models import Preprocess
from analysis.vit import Architecture, ViT


def mask_seen(mask: NDArray[np.bool_], preprocess: Preprocess) -> Bool[Tensor, "Y X"]:
    """The object mask at the model's input size, from the mask of the original image."""
    drawn = Image.fromarray(np.repeat(mask[..., None] * np.uint8(255), 3, axis=2))
    return torch.from_numpy(np.asarray(preprocess.crop(drawn))[..., 0] >= 128)


def with_masks(
    images: ImageSet, preprocess: Preprocess, batch: int = 25
) -> Iterator[tuple[Float[Tensor, "B C Y X"], Bool[Tensor, "B Y X"]]]:
    """Preprocessed images of a set with their object masks, in batches.

    Raises:
        ValueError: the set has no object masks.
    """
    for start in range(0, len(images), batch):
        indices = range(start, min(start + batch, len(images)))
        masks = [images.mask(i) for i in indices]
        if any(mask is None for mask in masks):
            raise ValueError(f"object masks are available for the demo scenes only, got {images.name}")
        inputs = torch.stack([preprocess(images.image(i)) for i in indices])
        yield inputs, torch.stack([mask_seen(mask, preprocess) for mask in masks if mask is not None])


def patch_cover(mask: Bool[Tensor, "*B Y X"], arch: Architecture) -> Float[Tensor, "*B rows columns"]:
    """Share of each patch's pixels that the object covers, 0 to 1.

    Pixels beyond the last whole patch belong to no patch and are ignored.

    Raises:
        ValueError: the mask does not have the size of the model's images.
    """
    if tuple(mask.shape[-2:]) != arch.image_size:
        raise ValueError(f"the mask must have the image's {arch.image_size} pixels, got {tuple(mask.shape)}")
    (rows, columns), (high, wide) = arch.grid, arch.patch_size
    whole = mask[..., : rows * high, : columns * wide].float()
    return whole.unflatten(-1, (columns, wide)).unflatten(-3, (rows, high)).mean(dim=(-3, -1))


def mass_on_object(
    maps: Float[Tensor, "*H rows columns"], cover: Float[Tensor, "*H rows columns"]
) -> Float[Tensor, "*H"]:
    """Share of a map's mass on the object: sum(map · cover) / sum(map) [ours].

    For a uniform map it equals the object's share of the image, the value expected by chance. Only
    attention to patches counts. A map without any mass gives 0.
    """
    total = maps.sum(dim=(-2, -1))
    return (maps * cover).sum(dim=(-2, -1)) / total.clamp_min(torch.finfo(maps.dtype).tiny)


def points_at_object(
    maps: Float[Tensor, "*H rows columns"], cover: Float[Tensor, "*H rows columns"]
) -> Bool[Tensor, "*H"]:
    """Pointing game (Zhang et al. 2018): whether the map's highest value is on the object.

    A patch counts as a hit if the object covers at least half of it [ours: the paper's maps are finer].
    The hit rate expected by chance is the share of such patches.
    """
    peaks = maps.flatten(-2).argmax(dim=-1, keepdim=True)
    return (cover.expand_as(maps).flatten(-2).gather(-1, peaks) >= 0.5)[..., 0]


@dataclass(frozen=True)
class ObjectAttention:
    """Object scores of every head, averaged over images.

    `mass[l][h]` and `pointing[l][h]` are shares from 0 to 1; `mass_by_chance` and
    `pointing_by_chance` are the scores of uniform attention and of a random patch.
    """

    mass: tuple[Float[Tensor, " H"], ...]
    pointing: tuple[Float[Tensor, " H"], ...]
    mass_by_chance: float
    pointing_by_chance: float
    images: int


def object_attention(
    model: ViT,
    batches: Iterable[tuple[Float[Tensor, "B C Y X"], Bool[Tensor, "B Y X"]]],
    read: Float[Tensor, " N"],
) -> ObjectAttention:
    """Mass on the object and pointing game of every head, for the query tokens weighted by `read`.

    `batches` are images with their object masks, as `with_masks` yields them; `read` comes from
    `analysis.attention.trace`, or is a row of `maps.row_readings`. Leaves the model unchanged.

    Raises:
        ValueError: no images, or `read` does not have one weight per token of this model.
    """
    if tuple(read.shape) != (model.arch.num_tokens,):
        raise ValueError(
            f"read must have a weight for each of this model's {model.arch.num_tokens} tokens, "
            f"got shape {tuple(read.shape)}"
        )
    mass = [torch.zeros(widths.heads) for widths in model.arch.blocks]
    pointing = [torch.zeros(widths.heads) for widths in model.arch.blocks]
    area, halves, images = 0.0, 0.0, 0
    with capture(model) as record:
        for batch, masks in batches:
            cover = patch_cover(masks, model.arch)[:, None]  # B 1 rows columns
            for block in record(batch):
                maps = to_patches(read @ block.patch_attention, model.arch)  # B H rows columns
                mass[block.index] += mass_on_object(maps, cover).sum(dim=0)
                pointing[block.index] += points_at_object(maps, cover).sum(dim=0)
            area += float(cover.mean(dim=(1, 2, 3)).sum())
            halves += float((cover >= 0.5).float().mean(dim=(1, 2, 3)).sum())
            images += len(batch)
    if not images:
        raise ValueError("attention to objects is measured on images with masks, got none")
    return ObjectAttention(
        tuple(total / images for total in mass),
        tuple(total / images for total in pointing),
        area / images,
        halves / images,
        images,
    )
