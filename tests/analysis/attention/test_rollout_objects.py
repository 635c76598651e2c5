"""Rollout against masks: twin image by image, pixel by pixel."""

from __future__ import annotations

from dataclasses import replace

import pytest

from analysis.attention.maps import default_row, rollout_of, row_readings
from analysis.attention.rollout_objects import rollout_on_object
from analysis.attention.trace import trace
from analysis.vit import Architecture
from tests.support.models import TINY, random_images, random_masks, random_vit


@pytest.mark.parametrize("fuse", ["mean", "max"])
@pytest.mark.parametrize("arch", [TINY, replace(TINY, registers=2, pool="avg")], ids=["token", "registers"])
def test_against_each_image_alone(arch: Architecture, fuse: str) -> None:
    model, images = random_vit(arch), random_images(arch, 5)
    masks = random_masks(5, arch.image_size)
    row = default_row(arch)
    found = rollout_on_object(
        model, zip(images.split(2), masks.split(2), strict=True), row_readings(arch)[row], fuse
    )
    mass, hits = 0.0, 0
    for image, mask in zip(images, masks, strict=True):
        plane = rollout_of(trace(model, image), row_readings(arch), fuse=fuse)[row]  # 2 3
        on, total, peak = 0.0, 0.0, (0, 0)
        for y in range(16):
            for x in range(24):
                share = float(plane[y // 8, x // 8]) / 64
                total += share
                on += share * bool(mask[y, x])
        for place in ((y, x) for y in range(2) for x in range(3)):
            peak = place if plane[place] > plane[peak] else peak
        y, x = peak
        hits += int(mask[8 * y : 8 * y + 8, 8 * x : 8 * x + 8].sum()) >= 32
        mass += on / total
    assert (found.hits, found.images) == (hits, 5)
    assert found.mass == pytest.approx(mass / 5, abs=1e-6) and found.pointing == hits / 5


def test_nothing_to_score_is_refused() -> None:
    with pytest.raises(ValueError, match="images with masks, got none"):
        rollout_on_object(random_vit(TINY), [], row_readings(TINY)[0])
