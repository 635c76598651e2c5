"""Halves of blocks that go: the mean of what they added stays."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

from analysis.measure import evaluate
from analysis.outputs import divergence, output
from analysis.vit import Architecture, ViT
from pruning.cut import without_halves
from pruning.projection.depth import mean_additions, measure_halves, remove_halves
from tests.support.models import SHORTER, TINY, VARIANTS, random_images, random_vit

KINDS = ("plain", "layer scale, no prefix in pos_embed", "registers", "average pool", "pre-norm", "distilled")


def batches(arch: Architecture) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(random_images(arch, count=5, seed=seed), torch.zeros(5).long()) for seed in (1, 2)]


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("gone", [((0, 0),), ((1, 1),), ((0, 0), (0, 1), (1, 0))], ids=str)
def test_what_adds_a_constant_goes_without_a_trace(name: str, gone: tuple[tuple[int, int], ...]) -> None:
    model = random_vit(VARIANTS[name])
    with torch.no_grad():
        for block, half in gone:
            writer = (model.blocks[block].attn.proj, model.blocks[block].mlp.fc2)[half]
            writer.weight.zero_()
    small = remove_halves(model, gone, batches(model.arch))
    assert small.arch == without_halves(model.arch, gone)
    images = random_images(model.arch, seed=3)
    with torch.no_grad():
        torch.testing.assert_close(small(images), model(images), atol=1e-4, rtol=1e-4)


def test_the_mean_over_images_and_tokens_is_added() -> None:
    model = random_vit(TINY)
    given = batches(TINY)
    total, count = torch.zeros(TINY.embed_dim, dtype=torch.float64), 0
    with torch.no_grad():
        for images, _ in given:
            for image in images:
                x = model.embed(image[None])
                added = model.blocks[0].ls1(model.blocks[0].attn(model.blocks[0].norm1(x))[0])[0]
                for token in added:
                    total, count = total + token.double(), count + 1
    torch.testing.assert_close(mean_additions(model, given)[0], total / count, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("classes", [10, 0])
def test_the_damage_of_each_half_is_that_of_the_model_without_it(classes: int) -> None:
    model, given = random_vit(replace(TINY, num_classes=classes)), batches(TINY)
    found = measure_halves(model, given, mean_additions(model, given))
    assert {(one.block, one.half) for one in found} == {(b, h) for b in range(TINY.depth) for h in (0, 1)}
    for one in found:
        small = remove_halves(model, [(one.block, one.half)], given)
        with torch.no_grad():
            kl = torch.cat([divergence(output(model, images), output(small, images)) for images, _ in given])
        assert one.kl == pytest.approx(float(kl.mean()), rel=1e-3)


def test_a_half_that_is_not_there_cannot_go() -> None:
    model = random_vit(SHORTER["without halves"])
    with pytest.raises(ValueError, match="block 0 has no attention to remove"):
        remove_halves(model, [(0, 0)], batches(model.arch))
    with pytest.raises(ValueError, match="without bias"):
        remove_halves(random_vit(replace(TINY, pre_norm=True, norm="rms")), [(0, 0)], batches(TINY))


def test_the_model_itself_stays_as_it_is() -> None:
    model = random_vit(TINY)
    before = copy.deepcopy(model.state_dict())
    remove_halves(model, [(0, 1)], batches(TINY))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_models_without_halves_are_evaluated(images: torch.Tensor) -> None:
    small: ViT = remove_halves(random_vit(TINY), [(0, 0), (1, 1)], batches(TINY))
    assert evaluate(small, [(images, torch.zeros(len(images)).long())]).images == len(images)
