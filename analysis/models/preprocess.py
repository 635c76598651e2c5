"""Image preprocessing, stored with the model it belongs to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import ClassVar

from jaxtyping import Float
from PIL import Image
from torch import Tensor

from analysis.formats import Stored

INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos")
CROP_MODES = ("center", "squash", "border")


@dataclass(frozen=True)
class Preprocess(Stored):
    """Image size (rows, columns), normalisation, resizing and class labels, in timm's terms.

    `labels` are the class names in the order of the logits; empty if they are not known.

    Raises:
        ValueError: a value of another type, or a size, statistic or mode that cannot be.
    """

    INDENT: ClassVar[int | None] = 2
    ASCII: ClassVar[bool] = False  # so that people can read the labels
    NEEDED: ClassVar[tuple[str, ...]] = ("mean", "std", "labels")

    image_size: tuple[int, int]
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    interpolation: str = "bicubic"
    crop_pct: float = 1.0
    crop_mode: str = "center"
    labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.image_size) < 1:
            raise ValueError(f"image_size must be two positive numbers, got {self.image_size}")
        if len(self.mean) != len(self.std) or not all(value > 0 for value in self.std):
            raise ValueError("mean and std must have one value per channel, std above zero")
        if self.interpolation not in INTERPOLATIONS:
            raise ValueError(
                f"interpolation must be one of {', '.join(INTERPOLATIONS)}, got {self.interpolation!r}"
            )
        if self.crop_mode not in CROP_MODES:
            raise ValueError(f"crop_mode must be one of {', '.join(CROP_MODES)}, got {self.crop_mode!r}")
        if not 0 < self.crop_pct <= 1:
            raise ValueError(f"crop_pct must be above 0 and at most 1, got {self.crop_pct}")

    def __call__(self, image: Image.Image) -> Float[Tensor, "C Y X"]:
        """Convert one RGB image to the model's input tensor."""
        return _transform(self)(image)

    def crop(self, image: Image.Image) -> Image.Image:
        """The part of the image the model sees, at the model's resolution, to draw maps over."""
        if image.mode == "RGB" and image.size == self.image_size[::-1] and self.crop_pct == 1:
            return image.copy()  # unchanged, and without the slow import of timm
        values = self(image)
        pixels = values * values.new_tensor(self.std)[:, None, None]
        pixels = (pixels + values.new_tensor(self.mean)[:, None, None]).clamp(0, 1)
        return Image.fromarray((pixels * 255).round().byte().permute(1, 2, 0).numpy())

    def label(self, index: int) -> str:
        """Name of a class, or e.g. `class 7` if names are not known."""
        return self.labels[index] if index < len(self.labels) else f"class {index}"


@cache
def _transform(preprocess: Preprocess) -> Callable[[Image.Image], Tensor]:
    # imported late: timm takes about half a second to import, and not every command transforms images
    from timm.data import create_transform

    transform: Callable[[Image.Image], Tensor] = create_transform(
        input_size=(len(preprocess.mean), *preprocess.image_size),
        mean=preprocess.mean,
        std=preprocess.std,
        interpolation=preprocess.interpolation,
        crop_pct=preprocess.crop_pct,
        crop_mode=preprocess.crop_mode,
    )
    return transform
