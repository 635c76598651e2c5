"""Maps against masks: twins by loops over pixels and heads."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from analysis.attention.capture import capture
from analysis.attention.maps import row_readings
from analysis.attention.objects import (
    mask_seen,
    mass_on_object,
    object_attention,
    patch_cover,
    points_at_object,
    with_masks,
)
from analysis.data.open import open_data
from analysis.data.scenes import render
from analysis.models.load import load
from analysis.vit import ViT
from tests.support.models import TINY, VARIANTS, random_images, random_masks, random_vit


def test_cover_is_counted_pixel_by_pixel() -> None:
    arch = replace(TINY, image_size=(18, 27), patch_size=(8, 6))  # pixels are left over at two sides
    mask = random_masks(1, arch.image_size)[0]
    found = patch_cover(mask, arch)
    assert found.shape == (2, 4)
    for row in range(2):
        for column in range(4):
            inside = [
                bool(mask[y, x])
                for y in range(8 * row, 8 * row + 8)
                for x in range(6 * column, 6 * column + 6)
            ]
            assert float(found[row, column]) == pytest.approx(sum(inside) / 48)


def test_mass_is_that_of_the_pixels_under_the_object() -> None:
    generator = torch.Generator().manual_seed(0)
    maps, mask = torch.rand(5, 2, 3, generator=generator), random_masks(1, TINY.image_size)[0]
    found = mass_on_object(maps, patch_cover(mask, TINY))
    for head in range(5):
        pixels = maps[head].repeat_interleave(8, 0).repeat_interleave(8, 1)  # spread evenly
        on = sum(float(pixels[y, x]) for y in range(16) for x in range(24) if mask[y, x])
        assert float(found[head]) == pytest.approx(on / float(pixels.sum()), rel=1e-5)


def test_by_chance_it_is_the_area() -> None:
    mask = random_masks(1, TINY.image_size)[0]
    found = mass_on_object(torch.full((2, 3), 0.1), patch_cover(mask, TINY))
    torch.testing.assert_close(found, mask.float().mean())
    assert float(mass_on_object(torch.zeros(2, 3), patch_cover(mask, TINY))) == 0


def test_pointing_asks_the_strongest_patch() -> None:
    cover = torch.tensor([[0.0, 0.49, 0.5], [1.0, 0.0, 0.0]])
    for y in range(2):
        for x in range(3):
            maps = torch.full((2, 3), 0.1)
            maps[y, x] = 0.2
            assert bool(points_at_object(maps, cover)) == (float(cover[y, x]) >= 0.5)


@pytest.mark.parametrize("name", ["plain", "registers", "no class token", "uneven"])
def test_many_images_are_the_mean_over_each(name: str) -> None:
    model = random_vit(VARIANTS[name])
    images, masks = random_images(model.arch, 6), random_masks(6, model.arch.image_size)
    prefix = len(model.arch.prefix_names)
    with capture(model) as record:
        attention = [block.attention for block in record(images)]
    for row in (0, prefix):
        batches = zip(images.split(4), masks.split(4), strict=True)
        found = object_attention(model, batches, row_readings(model.arch)[row])
        assert found.images == 6
        for block, full in enumerate(attention):
            for head in range(full.shape[1]):
                mass, hits = [], []
                for i in range(6):
                    line = full[i, head, row] if row < prefix else full[i, head, prefix:].mean(0)
                    values = line[prefix:].reshape(2, 3)
                    cover = patch_cover(masks[i], model.arch)
                    mass.append(float((values * cover).sum() / values.sum()))
                    y, x = divmod(int(values.argmax()), 3)
                    hits.append(float(cover[y, x]) >= 0.5)
                assert float(found.mass[block][head]) == pytest.approx(sum(mass) / 6, rel=1e-4)
                assert float(found.pointing[block][head]) == pytest.approx(sum(hits) / 6)
        assert found.mass_by_chance == pytest.approx(float(masks.float().mean()))
        covers = torch.stack([patch_cover(mask, model.arch) for mask in masks])
        assert found.pointing_by_chance == pytest.approx(float((covers >= 0.5).float().mean()))


def test_refusals(tiny: ViT) -> None:
    with pytest.raises(ValueError, match=r"the image's \(16, 24\) pixels"):
        patch_cover(torch.zeros(8, 8, dtype=torch.bool), TINY)
    with pytest.raises(ValueError, match="measured on images with masks"):
        object_attention(tiny, [], torch.ones(7))
    with pytest.raises(ValueError, match=r"this model's 7 tokens, got shape \(8,\)"):
        object_attention(tiny, [], torch.ones(8))


def test_scenes_come_with_their_masks_as_the_model_sees_them() -> None:
    demo = load("demo")
    scenes = open_data("demo", demo.preprocess, 10, "test").subset(range(5))
    found = list(with_masks(scenes, demo.preprocess, batch=3))
    assert [len(images) for images, _ in found] == [3, 2]
    for i in range(5):
        images, masks = found[i // 3]
        torch.testing.assert_close(images[i % 3], demo.preprocess(scenes.image(i)))
        assert torch.equal(masks[i % 3], torch.from_numpy(render("test", i).mask))
    narrow = replace(demo.preprocess, image_size=(32, 48))  # the shorter side to 48, then rows cut off
    seen = mask_seen(render("test", 0).mask, narrow)
    assert seen.shape == (32, 48)
    whole = Image.fromarray(render("test", 0).mask).resize((48, 48), Image.Resampling.BOX)
    assert (torch.from_numpy(np.array(whole)[8:40]) != seen).float().mean() < 0.05


def test_photos_have_no_masks(tmp_path: Path) -> None:
    (tmp_path / "dog").mkdir()
    Image.new("RGB", (9, 9)).save(tmp_path / "dog" / "a.png")
    preprocess = replace(load("demo").preprocess, labels=("dog",))
    photos = open_data(tmp_path, preprocess, 1)
    with pytest.raises(ValueError, match="available for the demo scenes only"):
        next(with_masks(photos, preprocess))
