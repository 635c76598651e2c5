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
CHANNELS = 3  # images are read as RGB
MOST_SIDE = 4096  # pixels of an image that a model takes
MOST_RESIZED = 64_000_000  # pixels of an image before the crop
MOST_MEAN = 1e3  # in absolute value; the values of an image are between 0 and 1
STDS = (1e-4, 1e4)  # least and most
CROP_PCTS = (0.1, 1.0)


@dataclass(frozen=True)
class Preprocess(Stored):
    """Image size (rows, columns), normalisation, resizing and class labels, in timm's terms.

    `labels` are the class names in the order of the logits; empty if they are not known. Sizes and statistics
    are bounded: `MOST_SIDE`, `MOST_MEAN`, `STDS`, `CROP_PCTS`, and `MOST_RESIZED` pixels before the crop.

    Raises:
        ValueError: a value of another type, or a size, statistic or mode that cannot be.
    """

    INDENT: ClassVar[int | None] = 2
    ASCII: ClassVar[bool] = False  # so that people can read the labels
    MOST_BYTES: ClassVar[int] = 2**24
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
        if max(self.image_size) > MOST_SIDE:
            raise ValueError(f"image_size must be at most {MOST_SIDE} pixels, got {self.image_size}")
        if not len(self.mean) == len(self.std) == CHANNELS:
            raise ValueError(
                f"mean and std must have {CHANNELS} values each, as images are read as RGB, "
                f"got {len(self.mean)} and {len(self.std)}"
            )
        for value in self.mean:
            if not abs(value) <= MOST_MEAN:  # not a number, too
                raise ValueError(f"mean must be from -{MOST_MEAN:g} to {MOST_MEAN:g}, got {value:g}")
        for value in self.std:
            if not STDS[0] <= value <= STDS[1]:
                raise ValueError(f"std must be from {STDS[0]:g} to {STDS[1]:g}, got {value:g}")
        if self.interpolation not in INTERPOLATIONS:
            raise ValueError(
                f"interpolation must be one of {', '.join(INTERPOLATIONS)}, got {self.interpolation!r}"
            )
        if self.crop_mode not in CROP_MODES:
            raise ValueError(f"crop_mode must be one of {', '.join(CROP_MODES)}, got {self.crop_mode!r}")
        least, most = CROP_PCTS
        if not least <= self.crop_pct <= most:
            raise ValueError(f"crop_pct must be from {least:g} to {most:g}, got {self.crop_pct:g}")
        self._require_room(self.image_size[::-1])

    def _require_room(self, size: tuple[int, int]) -> None:
        """Refuse an image of this width and height that would be enlarged beyond `MOST_RESIZED` pixels."""
        width, height = size
        rows, columns = self.image_size
        factor = max(rows / height, columns / width) / self.crop_pct
        wide, high = round(width * factor), round(height * factor)
        if self.crop_mode == "center" and wide * high > MOST_RESIZED:
            raise ValueError(
                f"an image of {width} x {height} pixels would be resized to {wide} x {high} before the crop: "
                f"at most {MOST_RESIZED // 10**6} megapixels are allowed; "
                "give an image that is less narrow, or choose a larger crop_pct"
            )

    def __call__(self, image: Image.Image) -> Float[Tensor, "C Y X"]:
        """Convert one RGB image to the model's input tensor.

        Raises:
            ValueError: the image is so narrow that it would have over `MOST_RESIZED` pixels before the crop.
        """
        self._require_room(image.size)
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
