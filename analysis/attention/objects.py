"""Maps against the mask of the object in the image: how much lies on it, and whether the peak does.

A map has one value for each patch; a mask, one for each pixel of what the model sees. What a patch
holds counts as spread evenly over its pixels [ours].
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
    """Which pixels of what the model sees show the object, from the mask of the image as it came."""
    drawn = Image.fromarray(np.repeat(mask[..., None] * np.uint8(255), 3, axis=2))
    return torch.from_numpy(np.asarray(preprocess.crop(drawn))[..., 0] >= 128)


def with_masks(
    images: ImageSet, preprocess: Preprocess, batch: int = 25
) -> Iterator[tuple[Float[Tensor, "B C Y X"], Bool[Tensor, "B Y X"]]]:
    """Images of a set whose objects are known, ready for the model, with their masks.

    Raises:
        ValueError: the objects are not known.
    """
    for start in range(0, len(images), batch):
        some = range(start, min(start + batch, len(images)))
        masks = [images.mask(i) for i in some]
        if any(mask is None for mask in masks):
            raise ValueError(f"where the objects are is known for the demo scenes alone, got {images.name}")
        inputs = torch.stack([preprocess(images.image(i)) for i in some])
        yield inputs, torch.stack([mask_seen(mask, preprocess) for mask in masks if mask is not None])


def patch_cover(mask: Bool[Tensor, "*B Y X"], arch: Architecture) -> Float[Tensor, "*B rows columns"]:
    """Share of each patch's pixels that the object covers, 0 to 1.

    Pixels beyond the last whole patch are seen by no patch and count for none.

    Raises:
        ValueError: the mask has another size than the model's images.
    """
    if tuple(mask.shape[-2:]) != arch.image_size:
        raise ValueError(f"the mask must have the image's {arch.image_size} pixels, got {tuple(mask.shape)}")
    (rows, columns), (high, wide) = arch.grid, arch.patch_size
    whole = mask[..., : rows * high, : columns * wide].float()
    return whole.unflatten(-1, (columns, wide)).unflatten(-3, (rows, high)).mean(dim=(-3, -1))


def mass_on_object(
    maps: Float[Tensor, "*H rows columns"], cover: Float[Tensor, "*H rows columns"]
) -> Float[Tensor, "*H"]:
    """Share of a map's mass that lies on the object: sum(map · cover) / sum(map) [ours].

    Of a uniform map it is the object's share of the image, what is to be expected by chance. Only what
    goes to patches counts. A map without any mass gives 0.
    """
    total = maps.sum(dim=(-2, -1))
    return (maps * cover).sum(dim=(-2, -1)) / total.clamp_min(torch.finfo(maps.dtype).tiny)


def points_at_object(
    maps: Float[Tensor, "*H rows columns"], cover: Float[Tensor, "*H rows columns"]
) -> Bool[Tensor, "*H"]:
    """Pointing game (Zhang et al. 2018): whether the map's highest value lies on the object.

    A hit is a patch that the object covers by at least half [ours: the paper's maps are finer]. By chance
    it is hit as often as there are such patches.
    """
    peaks = maps.flatten(-2).argmax(dim=-1, keepdim=True)
    return (cover.expand_as(maps).flatten(-2).gather(-1, peaks) >= 0.5)[..., 0]


@dataclass(frozen=True)
class ObjectAttention:
    """Every head against the objects of many images, means over them.

    `mass[l][h]` and `pointing[l][h]` are shares from 0 to 1; `mass_by_chance` and
    `pointing_by_chance` what a head that sees nothing would get.
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
    """Mass on the object and pointing game of every head, seen from the tokens weighed by `read`.

    `batches` are images with the masks of their objects, as `with_masks` gives them; `read` comes from
    `analysis.attention.trace`, or is a row of `maps.row_readings`. Leaves the model untouched.

    Raises:
        ValueError: no images, or a reading of another model's tokens.
    """
    if tuple(read.shape) != (model.arch.num_tokens,):
        raise ValueError(
            f"a reading of this model weighs {model.arch.num_tokens} tokens, got {tuple(read.shape)}"
        )
    mass = [torch.zeros(widths.heads) for widths in model.arch.blocks]
    pointing = [torch.zeros(widths.heads) for widths in model.arch.blocks]
    area, halves, images = 0.0, 0.0, 0
    with capture(model) as record:
        for batch, masks in batches:
            cover = patch_cover(masks, model.arch)[:, None]  # B 1 rows columns
            for block in record(batch):
                maps = to_patches(read @ block.attention, model.arch)  # B H rows columns
                mass[block.index] += mass_on_object(maps, cover).sum(dim=0)
                pointing[block.index] += points_at_object(maps, cover).sum(dim=0)
            area += float(cover.mean(dim=(1, 2, 3)).sum())
            halves += float((cover >= 0.5).float().mean(dim=(1, 2, 3)).sum())
            images += len(batch)
    if not images:
        raise ValueError("attention to objects needs images with masks, got none")
    return ObjectAttention(
        tuple(total / images for total in mass),
        tuple(total / images for total in pointing),
        area / images,
        halves / images,
        images,
    )
