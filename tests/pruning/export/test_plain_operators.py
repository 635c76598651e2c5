"""What a model gives in plain operators is what it gives."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from analysis.vit import Architecture, Merge
from pruning.export.plain_operators import SortlessMerge, plain_operators
from tests.support.models import FAMILIES, PLACED, SHORT, SHORTER, TINY, random_images, random_vit

ARCHS = {**FAMILIES, **SHORTER, "short": SHORT, "dense": TINY}


@pytest.mark.parametrize("arch", ARCHS.values(), ids=ARCHS)
def test_a_model_gives_the_same(arch: Architecture) -> None:
    model, images = random_vit(arch), random_images(arch, 3)
    plain = plain_operators(model)
    with torch.inference_mode():
        torch.testing.assert_close(plain(images), model(images), atol=1e-5, rtol=1e-5)
    assert all(isinstance(block.merge, SortlessMerge | None) for block in plain.blocks)
    assert all(isinstance(block.merge, Merge | None) for block in model.blocks)


@pytest.mark.parametrize("tokens", [9, 14, 30])
@pytest.mark.parametrize("sized", [False, True])
@pytest.mark.parametrize("read", [False, True])
def test_tokens_and_sizes(tokens: int, sized: bool, read: bool) -> None:
    """Odd and even numbers of patches, up to half of them merging, several into one."""
    arch = replace(TINY, distilled=True)
    generator = torch.Generator().manual_seed(tokens)
    x = torch.randn(4, tokens, arch.embed_dim, generator=generator)
    x[:, 2:] += 2 * torch.randn(4, 1, arch.embed_dim, generator=generator)  # all near one another
    sizes = torch.randint(1, 5, (4, tokens), generator=generator).float() if sized else None
    seen = torch.randn(4, tokens, generator=generator).softmax(dim=-1) if read else None
    for count in {1, (tokens - 2) // 3, (tokens - 2) // 2}:
        merge = Merge(arch, count)
        _same(SortlessMerge(merge, tokens)(x, sizes, seen), merge(x, sizes, seen))


def test_equal_tokens() -> None:
    """All are equally far apart: the first merge, into the first."""
    merge = Merge(TINY, 2)
    x = torch.ones(1, 7, 1) * torch.arange(TINY.embed_dim)
    _same(SortlessMerge(merge, 7)(x, None, None), merge(x, None, None))


@pytest.mark.parametrize("tokens", [14, 99])
def test_half_precision_merges_as_many(tokens: int) -> None:
    """As ncnn computes on phones: distances tie there, and 65504 is the largest number."""
    generator = torch.Generator().manual_seed(tokens)
    x = torch.randn(2, 1, TINY.embed_dim, generator=generator)
    x = (x + 0.05 * torch.randn(2, tokens, TINY.embed_dim, generator=generator)).half()
    sizes = torch.randint(1, 5, (2, tokens), generator=generator).half()
    count = (tokens - 1) // 2
    got, total = SortlessMerge(Merge(TINY, count), tokens).half()(x, sizes, None)
    assert got.shape[1] == tokens - count and (total > 0).all()
    torch.testing.assert_close(total.sum(dim=1), sizes.sum(dim=1))  # every token is in one, and no more
    sums = [(part * number[..., None]).double().sum(dim=1) for part, number in ((got, total), (x, sizes))]
    torch.testing.assert_close(*sums, atol=0.02 * tokens, rtol=0.01)


@pytest.mark.parametrize("arch", PLACED.values(), ids=PLACED)
def test_places_are_refused(arch: Architecture) -> None:
    with pytest.raises(ValueError, match=r"needs a runtime that gathers: export it as onnx"):
        plain_operators(random_vit(arch))


def _same(got: tuple[Tensor, Tensor], expected: tuple[Tensor, object]) -> None:
    assert isinstance(expected[1], Tensor)
    torch.testing.assert_close(got[0], expected[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(got[1], expected[1], atol=1e-5, rtol=1e-5)
