from __future__ import annotations

from typing import Any

import pytest
import torch

from analysis.attention.capture import capture
from analysis.attention.rollout import FUSIONS, rollout
from tests.support import reference
from tests.support.models import VARIANTS, random_images, random_vit


def random_maps(blocks: int = 3, n: int = 7) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.rand(2, 4, n, n, generator=generator, dtype=torch.float64).softmax(-1) for _ in range(blocks)
    ]


@pytest.mark.parametrize("fuse", FUSIONS)
@pytest.mark.parametrize("discard", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("prefix", [0, 1, 3])
def test_equals_the_slow_twin(fuse: str, discard: float, prefix: int) -> None:
    maps = random_maps()
    got = rollout(iter(maps), fuse=fuse, discard=discard, prefix=prefix)
    for image in range(2):
        expected = reference.rollout([block[image] for block in maps], fuse, discard, prefix)
        torch.testing.assert_close(got[image], expected)


def test_of_equal_entries_the_first_are_dropped() -> None:
    maps = [torch.full((1, 2, 40, 40), 1 / 40, dtype=torch.float64)] * 2
    expected = reference.rollout([block[0] for block in maps], "mean", 0.5, 1)
    torch.testing.assert_close(rollout(maps, discard=0.5)[0], expected)


@pytest.mark.parametrize("name", ["plain", "registers", "no class token", "uneven"])
@pytest.mark.parametrize("fuse", FUSIONS)
def test_rows_sum_to_one_on_real_maps(name: str, fuse: str) -> None:
    model = random_vit(VARIANTS[name])
    with capture(model) as record:
        maps = (block.attention for block in record(random_images(model.arch)))
        got = rollout(maps, fuse=fuse, discard=0.5, prefix=len(model.arch.prefix_names))
    assert got.shape == (4, model.arch.num_tokens, model.arch.num_tokens)
    torch.testing.assert_close(got.sum(-1), torch.ones(got.shape[:2]))


def test_attention_to_oneself_alone_is_the_identity() -> None:
    eye = torch.eye(5).expand(1, 2, 5, 5)
    torch.testing.assert_close(rollout([eye, eye])[0], torch.eye(5))


def test_prefix_columns_are_never_dropped() -> None:
    maps = torch.ones(1, 1, 6, 6)
    maps[..., 0] = 1e-3  # the class token is attended to least of all
    maps = maps / maps.sum(-1, keepdim=True)
    assert bool((rollout([maps], discard=0.9)[0, 1:, 0] > 0).all())


def test_maps_are_left_untouched() -> None:
    maps = random_maps()
    copies = [block.clone() for block in maps]
    rollout(maps, discard=0.5)
    assert all(torch.equal(a, b) for a, b in zip(maps, copies, strict=True))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fuse": "median"}, "fuse must be one of mean, max, min, got 'median'"),
        ({"discard": 1.0}, "discard must be at least 0 and below 1, got 1.0"),
        ({"discard": -0.1}, "discard must be at least 0"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rollout(random_maps(), **settings)


def test_no_maps_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one block"):
        rollout([])
