"""What is shown of an image is what the model gets of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from analysis.models.preprocess import CROP_MODES, INTERPOLATIONS, Preprocess

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("crop_mode", CROP_MODES)
@pytest.mark.parametrize(("size", "share"), [((24, 16), 1.0), ((24, 16), 0.8), ((60, 31), 1.0)])
def test_the_crop_is_what_goes_into_the_model(
    size: tuple[int, int], share: float, crop_mode: str, interpolation: str
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    preprocess = Preprocess((16, 24), MEAN, STD, interpolation, share, crop_mode)
    shown = preprocess.crop(image)
    seen = preprocess(image).permute(1, 2, 0).numpy() * STD + MEAN
    np.testing.assert_array_equal(np.asarray(shown), np.round(255 * seen))
    assert shown is not image


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"crop_pct": 0.001}, "crop_pct must be from 0.1 to 1, got 0.001"),
        ({"crop_pct": 1e-320}, "crop_pct must be from 0.1 to 1"),
        ({"crop_pct": 0.1, "image_size": (1024, 1024)}, "would be resized to 10240 x 10240"),
        ({"image_size": (10**9, 10**9)}, "image_size must be at most 4096 pixels"),
        ({"mean": (1e38, 0.5, 0.5)}, r"mean must be from -1000 to 1000, got 1e\+38"),
        ({"mean": (0.5, -1e300, 0.5)}, r"mean must be from -1000 to 1000, got -1e\+300"),
        ({"mean": (0.5,), "std": (0.5,)}, "mean and std must have 3 values each, .*, got 1 and 1"),
        ({"std": (0.5, 1e-40, 0.5)}, "std must be from 0.0001 to 10000, got 1e-40"),
        ({"std": (0.5, 0.5, 1e30)}, r"std must be from 0.0001 to 10000, got 1e\+30"),
    ],
)
def test_absurd_values_are_refused(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        replace(Preprocess((16, 24)), **change)


def test_a_narrow_image_is_not_enlarged_without_bound() -> None:
    image = Image.new("RGB", (3000, 30))
    with pytest.raises(ValueError, match="3000 x 30 pixels would be resized to 102400 x 1024 "):
        Preprocess((1024, 1024))(image)
    assert Preprocess((16, 24))(image).shape == (3, 16, 24)
