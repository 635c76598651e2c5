"""What is shown of an image is what the model gets of it."""

from __future__ import annotations

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
