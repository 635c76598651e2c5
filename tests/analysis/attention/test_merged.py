"""Pictures of merged patches, pixel by pixel."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from analysis.attention.capture import capture
from analysis.attention.merged import FILM_GAP, film, film_columns, members_behind, merged_picture
from analysis.attention.tokens import Members
from analysis.vit import BlockWidths
from tests.support.models import SHORTER, TINY, random_images, random_vit

# class token, then 2 x 3 patches: the first two and the last are one token
MEMBERS = Members(torch.tensor([0, 4, 4, 1, 2, 3, 4]), torch.tensor([1.0, 1.0, 1.0, 1.0, 3.0]))


def photo() -> Image.Image:
    values = np.random.default_rng(0).integers(0, 200, (40, 60, 3), dtype=np.uint8)
    return Image.fromarray(values)


def test_a_region_has_its_mean_colour_and_an_outline_and_the_rest_is_the_photo() -> None:
    before, found = np.asarray(photo()), np.asarray(merged_picture(photo(), MEMBERS, TINY))
    patches = [(0, 0), (0, 1), (1, 2)]
    mean = np.concatenate([before[20 * y : 20 * y + 20, 20 * x : 20 * x + 20] for y, x in patches]).mean(
        (0, 1)
    )
    for y in range(40):
        for x in range(60):
            mine = (y // 20, x // 20)
            if mine not in patches:
                assert found[y, x].tolist() == before[y, x].tolist()
                continue
            around = [(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
            rim = any(
                not (0 <= b < 40 and 0 <= a < 60) or (b // 20, a // 20) not in patches for b, a in around
            )
            assert found[y, x].tolist() == ([255] * 3 if rim else mean.round().tolist())


def test_without_merging_the_picture_is_the_photo() -> None:
    alone = Members(torch.arange(7), torch.ones(7))
    assert merged_picture(photo(), None, TINY) == photo() == merged_picture(photo(), alone, TINY)


@pytest.mark.parametrize("name", ["merging", "merging, average pool", "without halves"])
def test_members_behind_every_block_are_those_that_are_captured(name: str) -> None:
    model = random_vit(SHORTER[name])
    image = random_images(model.arch)[0]
    with capture(model) as record:
        expected = [block.left for block in record(image[None])]
    found = members_behind(model, image)
    assert len(found) == model.arch.depth
    for one, other in zip(found, expected, strict=True):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            assert torch.equal(one.token, other.token[0]) and torch.equal(one.sizes, other.sizes[0])
    assert members_behind(random_vit(TINY), image) == (None, None)


def test_a_film_has_a_picture_for_every_block_and_a_blank_where_there_is_no_attention() -> None:
    blocks = (BlockWidths(0, 0, 0, 32), *(TINY.blocks[:1] * 7))
    arch = replace(TINY, blocks=blocks)
    sheet = film(photo(), [None, *[MEMBERS] * 7], arch, room=200)
    assert film_columns(8) == 4 and film_columns(12) == 6 and film_columns(3) == 3
    wide, high = (200 + FILM_GAP) // 4 - FILM_GAP, round(((200 + FILM_GAP) // 4 - FILM_GAP) * 40 / 60)
    assert sheet.size == (4 * (wide + FILM_GAP) - FILM_GAP, 2 * (high + FILM_GAP) - FILM_GAP)
    alpha = np.asarray(sheet)[..., 3]
    assert (alpha[18:high, 20:wide] == 48).all()  # the blank, beside its number
    assert (alpha[:high, wide : wide + FILM_GAP] == 0).all() and (
        alpha[:high, wide + FILM_GAP : 2 * wide] == 255
    ).all()
