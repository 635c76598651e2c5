"""Random changes to training images: crops and flips of one, blends of two."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from analysis.models import Preprocess
from pruning.seeding import seeded

STRENGTHS = ("auto", "none", "light", "strong")
SMALL = 64  # pixels: images or inputs up to this size are shifted, larger ones cropped and resized


def augmentation(preprocess: Preprocess, strength: str, mirror: bool) -> Callable[[Image.Image], Tensor]:
    """From an RGB image to the tensor C Y X that is trained on; draws from the global random streams.

    `light` crops at least a third of the image, and mirrors half of them where `mirror` allows it;
    images of up to `SMALL` pixels, which have no detail to zoom into, are padded by an eighth and
    shifted instead, whatever size the model resizes them to. Its values are bytes, a quarter of what would
    travel from the processes that read images, and `normalized` turns them into the model's numbers.
    `strong` is DeiT's recipe: crops from 8 %, RandAugment, random erasing.
    """
    return preprocess if strength == "none" else _random(preprocess, strength == "strong", mirror)


@cache
def _random(preprocess: Preprocess, strong: bool, mirror: bool) -> Callable[[Image.Image], Tensor]:
    from timm.data.auto_augment import rand_augment_transform
    from timm.data.random_erasing import RandomErasing
    from torchvision import transforms

    steps: list[Any] = [_Crop(preprocess, strong, mirror)]
    if strong:
        grey = tuple(round(255 * value) for value in preprocess.mean)
        changes = rand_augment_transform("rand-m9-mstd0.5-inc1", {"img_mean": grey})
        for one in changes.ops:
            if one.name == "PosterizeIncreasing":
                one.level_fn = partial(_one_bit_at_least, one.level_fn)
        steps += [changes, transforms.ToTensor(), transforms.Normalize(preprocess.mean, preprocess.std)]
        steps.append(RandomErasing(probability=0.25, mode="pixel", device="cpu"))
    else:
        steps.append(transforms.PILToTensor())
    composed: Callable[[Image.Image], Tensor] = transforms.Compose(steps)
    return composed


def normalized(images: Tensor, preprocess: Preprocess) -> Float[Tensor, "B C Y X"]:
    """A batch as the model takes it: bytes are normalised where they are, other values are by now."""
    if images.dtype != torch.uint8:
        return images
    mean, std = (
        images.new_tensor(v, dtype=torch.float32)[:, None, None] for v in (preprocess.mean, preprocess.std)
    )
    return images.float().sub_(255 * mean).div_(255 * std)


def _one_bit_at_least(bits: Callable[[float, Any], tuple[int]], level: float, hparams: Any) -> tuple[int]:
    """How many bits of a colour stay: at the highest level timm keeps none, which Pillow refuses [ours]."""
    return (max(bits(level, hparams)[0], 1),)


class _Crop:
    """A random crop of a photo, or a random shift of a small image, at the model's size; perhaps mirrored."""

    def __init__(self, preprocess: Preprocess, strong: bool, mirror: bool) -> None:
        from timm.data.transforms import RandomResizedCropAndInterpolation, str_to_interp_mode
        from torchvision import transforms

        self.size, interpolation, self.mirror = preprocess.image_size, preprocess.interpolation, mirror
        share = (0.08 if strong else 0.35, 1.0)
        self.margins = (self.size[0] // 8, self.size[1] // 8)  # top and bottom, left and right
        self.zoom = RandomResizedCropAndInterpolation(self.size, share, (3 / 4, 4 / 3), interpolation)
        self.resize = transforms.Resize(self.size, str_to_interp_mode(interpolation))

    def __call__(self, image: Image.Image) -> Image.Image:
        small = min(max(image.size), max(self.size)) <= SMALL
        mirrored = self.mirror and bool(torch.rand(()) < 0.5)
        if small:
            return self._shift(self.resize(image), mirrored)
        changed: Image.Image = self.zoom(image)
        return changed.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else changed

    def _shift(self, image: Image.Image, mirrored: bool) -> Image.Image:
        """As torchvision's RandomCrop with mirrored margins, but without building the larger image."""
        rows, columns = (
            _shifted(size, int(torch.randint(-margin, margin + 1, ())))
            for size, margin in zip(self.size, self.margins, strict=True)
        )
        pixels = np.asarray(image).take(rows, 0).take(columns[::-1] if mirrored else columns, 1)
        return Image.fromarray(pixels)


def _shifted(size: int, start: int) -> NDArray[np.intp]:
    """Which of `size` places is seen at each place after a shift; both ends are mirrors."""
    places = np.abs(np.arange(start, start + size))
    return np.where(places < size, places, 2 * (size - 1) - places)


class Mixing:
    """Mixup and CutMix of whole batches (timm's), and label smoothing; a batch's draw is its number's.

    Image i is blended with image B - 1 - i, alike in every process.
    """

    def __init__(self, mixup: float, cutmix: float, smoothing: float, classes: int, seed: int) -> None:
        self.mixup, self.cutmix, self.smoothing = mixup, cutmix, smoothing
        self.classes, self.seed = classes, seed

    @property
    def blends(self) -> bool:
        """Whether images are blended at all."""
        return self.mixup > 0 or self.cutmix > 0

    def __call__(
        self, images: Float[Tensor, "B C Y X"], labels: Int[Tensor, " B"], step: int
    ) -> tuple[Float[Tensor, "B C Y X"], Tensor]:
        """Images, blended in place, and targets: labels as they are, or B x classes that sum to one."""
        from timm.data.mixup import Mixup, mixup_target

        if not self.blends:
            soft = mixup_target(labels, self.classes, 1.0, self.smoothing) if self.smoothing else labels
            return images, soft
        mix = Mixup(self.mixup, self.cutmix, label_smoothing=self.smoothing, num_classes=self.classes)
        with seeded("mixing", self.seed, step):
            blended: tuple[Tensor, Tensor] = mix(images, labels)
        return blended
