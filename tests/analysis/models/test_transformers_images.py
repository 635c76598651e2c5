"""Images are made ready as transformers' own processors do it."""

import re
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from analysis.models.huggingface.fields import read_object
from analysis.models.huggingface.images import images_of

transformers: Any = pytest.importorskip("transformers")

# One of 255 grey levels, in units of the smallest standard deviation used here.
TOLERANCE = 1.01 / 255 / 0.2


def photo(width: int, height: int) -> Image.Image:
    """Smooth and with edges, as a photograph: noise at several scales."""
    rng = np.random.default_rng(0)
    noise = [Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8)) for side in (4, 16, 64)]
    levels = np.mean([np.asarray(one.resize((width, height))) for one in noise], axis=0)
    return Image.fromarray(levels.astype(np.uint8))


PROCESSORS: dict[str, tuple[str, dict[str, Any]]] = {
    "ViT": ("ViTImageProcessorPil", {"size": {"height": 32, "width": 48}}),
    "ViT, bicubic": ("ViTImageProcessorPil", {"size": {"height": 32, "width": 32}, "resample": 3}),
    "ViT, nearest": ("ViTImageProcessorPil", {"size": {"height": 32, "width": 32}, "resample": 0}),
    "ViT, lanczos": ("ViTImageProcessorPil", {"size": {"height": 32, "width": 32}, "resample": 1}),
    "DeiT": (
        "DeiTImageProcessorPil",
        {"size": {"height": 74, "width": 74}, "crop_size": {"height": 64, "width": 64}},
    ),
    "CLIP": ("CLIPImageProcessorPil", {"size": {"shortest_edge": 32}, "crop_size": 32}),
    "DINOv2": ("BitImageProcessorPil", {"size": {"shortest_edge": 36}, "crop_size": 28}),
    "SigLIP": ("SiglipImageProcessorPil", {"size": {"height": 32, "width": 32}}),
    "statistics": (
        "ViTImageProcessorPil",
        {
            "size": {"height": 32, "width": 32},
            "image_mean": [0.4, 0.5, 0.6],
            "image_std": [0.2, 0.25, 0.3],
        },
    ),
    "not normalised": ("ViTImageProcessorPil", {"size": {"height": 32, "width": 32}, "do_normalize": False}),
    "another factor": (
        "ViTImageProcessorPil",
        {"size": {"height": 32, "width": 32}, "rescale_factor": 1 / 127.5},
    ),
}


@pytest.mark.parametrize("case", PROCESSORS)
@pytest.mark.parametrize("shape", [(100, 80), (80, 120), (40, 40)])
def test_pixels_are_those_of_the_processor(case, shape, tmp_path):
    name, options = PROCESSORS[case]
    theirs = getattr(transformers, name)(**options)
    theirs.save_pretrained(tmp_path)
    found = images_of(read_object(tmp_path / "preprocessor_config.json"), "vit")
    assert found.size is not None
    assert not found.notes
    image = photo(*shape)
    expected = theirs(images=image, return_tensors="pt").pixel_values[0].float()
    got = found.preprocess(found.size, ())(image)
    torch.testing.assert_close(got, expected, rtol=0, atol=TOLERANCE)
    assert (got - expected).abs().mean() < 1e-3


def test_where_the_margin_is_odd_the_crop_lies_one_pixel_beside(tmp_path):
    theirs = transformers.BitImageProcessorPil(size={"shortest_edge": 37}, crop_size=28)
    theirs.save_pretrained(tmp_path)
    found = images_of(read_object(tmp_path / "preprocessor_config.json"), "dinov2")
    image = photo(80, 120)  # 37 x 55 before the crop, margins of 9 and 27
    expected = theirs(images=image, return_tensors="pt").pixel_values[0].float()
    got = found.preprocess((28, 28), ())(image)
    torch.testing.assert_close(got[:, :-1], expected[:, 1:], rtol=0, atol=TOLERANCE)


def test_forms_of_before():
    vit = images_of({"feature_extractor_type": "ViTFeatureExtractor", "size": 224, "resample": 2}, "vit")
    assert (vit.size, vit.crop_mode, vit.interpolation) == ((224, 224), "squash", "bilinear")
    clip = {"feature_extractor_type": "CLIPFeatureExtractor", "size": 256, "crop_size": 224, "resample": 3}
    found = images_of(clip | {"do_center_crop": True}, "clip")
    assert (found.size, found.crop_mode, found.crop_pct) == ((224, 224), "center", 0.875)
    nested = images_of({"image_processor": {"size": {"height": 32, "width": 16}}}, "siglip")
    assert nested.size == (32, 16)


@pytest.mark.parametrize("side", range(225, 600))
def test_the_resized_side_survives(side):
    config = {"size": {"shortest_edge": side}, "crop_size": 224}
    assert int(224 / images_of(config, "vit").crop_pct) == side


@pytest.mark.parametrize(
    ("config", "note"),
    [
        ({"do_resize": False}, "are not resized in transformers"),
        ({"size": {"shortest_edge": 32}}, "keep their shape in transformers"),
        ({"size": 32, "crop_size": 48}, "larger than the resized image"),
        ({"size": {"height": 32, "width": 64}, "crop_size": 16}, "other shares of height and width"),
        ({"resample": 4}, "not by Pillow's filter 4"),
        ({"resample": []}, r"not by Pillow's filter \[\]"),
    ],
)
def test_what_cannot_be_said_is_told(config, note):
    assert re.search(note, "; ".join(images_of(config, "vit").notes))


def test_without_a_config_the_usual_is_taken():
    for model_type, mode in (("vit", "squash"), ("clip", "center"), ("dinov2", "center")):
        found = images_of(None, model_type)
        assert (found.size, found.crop_mode) == (None, mode)
        assert "no preprocessor_config.json" in found.notes[0]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"size": "224"}, "`size` must be whole numbers from 1 to 4096"),
        ({"size": 10**9}, "`size` must be whole numbers from 1 to 4096"),
        ({"size": {"height": 3}}, "`size` must be whole numbers"),
        ({"size": {"shortest_edge": -1}}, "`size.shortest_edge` must be whole numbers"),
        ({"crop_size": [1, 2, 3]}, "`crop_size` must be whole numbers"),
        ({"image_mean": [0.5]}, "`image_mean` must be 3 numbers"),
        ({"image_std": ["a", "b", "c"]}, "`image_std` must be 3 numbers"),
        ({"do_rescale": 1}, "`do_rescale` must be true or false"),
        ({"rescale_factor": 0}, "`rescale_factor` must be a positive number"),
    ],
)
def test_damaged_configs(config, message):
    with pytest.raises(ValueError, match=message):
        images_of(config, "vit")


@pytest.mark.parametrize("config", [{"image_std": [0, 0, 0]}, {"rescale_factor": 1e-300}])
def test_values_that_cannot_be_are_refused_by_the_preprocessing(config):
    with pytest.raises(ValueError, match=r"(std|mean) must be from"):
        images_of(config, "vit").preprocess((32, 32), ())
