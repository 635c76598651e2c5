"""`preprocessor_config.json` of a transformers model as this project's `Preprocess`."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from analysis.models.huggingface.fields import flag, number
from analysis.models.preprocess import CHANNELS, MOST_SIDE, Preprocess

PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")

_RESAMPLING = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}  # Pillow's codes
_HALF = (0.5, 0.5, 0.5)
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
# Processors whose one number for the size is that of the shortest edge; in all others it is that of both.
_SHORTEST = ("CLIP", "Bit", "ConvNext")


@dataclass(frozen=True)
class Images:
    """How images are made ready: the size that comes out (None: any), and sentences for the user."""

    size: tuple[int, int] | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    crop_pct: float
    crop_mode: str
    notes: tuple[str, ...]

    def preprocess(self, image_size: tuple[int, int], labels: tuple[str, ...]) -> Preprocess:
        """For a model that takes images of this size."""
        return Preprocess(
            image_size,
            self.mean,
            self.std,
            self.interpolation,
            self.crop_pct,
            self.crop_mode,
            labels,
        )


def images_of(config: Mapping[str, Any] | None, model_type: str) -> Images:
    """Read the config of an image processor; without one (None), as those of the model type are by default.

    Raises:
        ValueError: a value of another type, or one that cannot be.
    """
    if config is None:
        return _default(model_type)
    inner = config.get("image_processor")  # as a processor for images and text stores it
    if isinstance(inner, dict):
        config = {name: value for name, value in inner.items() if value is not None}
    notes: list[str] = []
    mean, std = _statistics(config)
    size, crop_pct, crop_mode = _geometry(config, notes)
    code = config.get("resample", 2)
    interpolation = _RESAMPLING.get(code) if type(code) is int else None
    if interpolation is None:
        interpolation = "bilinear"
        notes.append(f"images are resized by bilinear, not by Pillow's filter {reprlib.repr(code):.20}")
    return Images(size, mean, std, interpolation, crop_pct, crop_mode, tuple(notes))


def _default(model_type: str) -> Images:
    notes = ("it has no preprocessor_config.json: images are made ready as is usual for such models",)
    if model_type.startswith("clip"):
        return Images(None, *_CLIP, "bicubic", 1.0, "center", notes)
    if model_type.startswith("dinov2"):
        return Images(None, *_IMAGENET, "bicubic", 0.875, "center", notes)
    return Images(None, _HALF, _HALF, "bilinear", 1.0, "squash", notes)


def _statistics(config: Mapping[str, Any]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation for values from 0 to 1, whatever factor the processor has."""
    factor = 255.0
    factor *= number(config, "rescale_factor", 1 / 255) if flag(config, "do_rescale", True) else 1
    if not flag(config, "do_normalize", True):
        return (0.0,) * CHANNELS, (1 / factor,) * CHANNELS
    mean, std = (_numbers(config, name) for name in ("image_mean", "image_std"))
    if abs(factor - 1) < 1e-9:  # 255 times 1/255, rounded
        return tuple(mean), tuple(std)
    return tuple(value / factor for value in mean), tuple(value / factor for value in std)


def _numbers(config: Mapping[str, Any], name: str) -> list[float]:
    found = config.get(name, list(_HALF))
    values = found if isinstance(found, list) else [found] * CHANNELS
    if len(values) != CHANNELS or not all(type(v) in (int, float) and abs(v) < 1e9 for v in values):
        raise ValueError(f"`{name}` must be {CHANNELS} numbers, got {reprlib.repr(found):.60}")
    return values


def _geometry(config: Mapping[str, Any], notes: list[str]) -> tuple[tuple[int, int] | None, float, str]:
    """The size that comes out, the share of the resized image that is kept, and the way of resizing."""
    if not flag(config, "do_resize", True):
        notes.append("its images are not resized in transformers; here they are squashed to its size")
        return None, 1.0, "squash"
    size, is_shortest = _size(config)
    mode = "center" if is_shortest else "squash"
    if not flag(config, "do_center_crop", "crop_size" in config):
        if is_shortest:
            notes.append("its images keep their shape in transformers; here the centre is cut out")
        return (None if is_shortest else size), 1.0, mode
    cropped = _sides(config.get("crop_size", list(size)), "crop_size")
    if cropped[0] > size[0] or cropped[1] > size[1]:
        notes.append("its crop is larger than the resized image and padded in transformers; here it is not")
        return cropped, 1.0, mode
    shares = [_share(crop, side) for crop, side in zip(cropped, size, strict=True)]
    if math.floor(cropped[1] / shares[0]) != size[1]:
        notes.append("its crop takes other shares of height and width; here that of the height for both")
    return cropped, shares[0], mode


def _share(crop: int, side: int) -> float:
    """`crop` / `side`, such that timm's `floor(crop / share)` gives the side again."""
    share = crop / side
    return share if math.floor(crop / share) == side else crop / (side + 0.5)


def _size(config: Mapping[str, Any]) -> tuple[tuple[int, int], bool]:
    """Sides after resizing, and whether they are those of the shortest edge alone."""
    found = config.get("size", 224)
    if isinstance(found, dict) and "shortest_edge" in found:
        return _sides(found["shortest_edge"], "size.shortest_edge"), True
    kind = config.get("image_processor_type") or config.get("feature_extractor_type") or ""
    is_shortest = type(found) is int and str(kind).startswith(_SHORTEST)
    return _sides(found, "size"), is_shortest


def _sides(found: Any, name: str) -> tuple[int, int]:
    sides = found
    if isinstance(found, dict):
        sides = [found.get("height"), found.get("width")]
    elif not isinstance(found, list):
        sides = [found, found]
    if len(sides) != 2 or not all(type(side) is int and 0 < side <= MOST_SIDE for side in sides):
        raise ValueError(
            f"`{name}` must be whole numbers from 1 to {MOST_SIDE}, one or `height` and `width`, "
            f"got {reprlib.repr(found):.60}"
        )
    return sides[0], sides[1]
