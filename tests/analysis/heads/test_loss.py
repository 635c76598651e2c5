from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from analysis.heads import loss
from analysis.outputs import divergence, output
from analysis.vit import ViT
from pruning.criteria import taylor
from pruning.criteria.head_measures import ask_heads
from tests.support.models import TINY, VARIANTS, batches, random_images, random_vit, scaled_heads

MEASURES = {
    "taylor": loss.taylor,
    "ablation": loss.ablation,
    "integrated gradients": loss.integrated_gradients,
}


def test_taylor_of_all_structures_agrees(tiny: ViT) -> None:
    """The criterion scores all structures at once, the measure of heads only those: the same numbers."""
    data = batches(random_images(TINY, count=6), 4)
    expected = taylor.taylor(tiny, data, taylor.LossOptions()).heads
    measured = ask_heads(tiny, "taylor", data)
    torch.testing.assert_close(torch.tensor(measured), torch.cat(expected), atol=1e-6, rtol=1e-5)
    for got, same in zip(loss.taylor(tiny, data), expected, strict=True):
        torch.testing.assert_close(got, same, atol=1e-6, rtol=1e-5)


def losses(model: ViT, images: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return F.cross_entropy(model(images), torch.arange(len(images)) % 10, reduction="none")


def test_taylor_is_the_slope_of_every_images_loss(variant: ViT) -> None:
    if variant.arch.num_classes == 0:
        pytest.skip("no loss")
    model = variant.double()
    images = random_images(variant.arch, count=3).double()
    got = loss.taylor(model, batches(images, 2))
    labels = torch.arange(3) % 10
    step = 1e-4
    for block, widths in enumerate(model.arch.blocks):
        for head in range(widths.heads):
            rises = []
            for factor in (1 + step, 1 - step):
                with torch.no_grad():
                    logits = scaled_heads(model, {(block, head): factor})(images)
                rises.append([float(F.cross_entropy(logits[i], labels[i])) for i in range(3)])
            slopes = [abs(up - down) / (2 * step) for up, down in zip(*rises, strict=True)]
            assert float(got[block][head]) == pytest.approx(sum(slopes) / 3, rel=1e-4, abs=1e-6)


def test_ablation_is_the_rise_of_the_loss_head_by_head(variant: ViT) -> None:
    if variant.arch.num_classes == 0:
        pytest.skip("no loss")
    images = random_images(variant.arch, count=3)
    got = loss.ablation(variant, batches(images, 2))
    for block, widths in enumerate(variant.arch.blocks):
        assert got[block].shape == (widths.heads,)
        for head in range(widths.heads):
            rise = losses(scaled_heads(variant, {(block, head): 0.0}), images) - losses(variant, images)
            assert float(got[block][head]) == pytest.approx(float(rise.mean()), abs=1e-4)
    everything = torch.cat(got)
    assert everything.unique().numel() > 1


@pytest.mark.parametrize("steps", [1, 4])
def test_integrated_gradients_are_slopes_along_the_path(steps: int) -> None:
    """Twin: Gauss and Legendre's points from their polynomial, slopes by differences, head by head."""
    arch = replace(VARIANTS["uneven"], distilled=True)
    model = random_vit(arch).double()
    images, labels = random_images(arch, count=2).double(), torch.tensor([0, 1])
    got = loss.integrated_gradients(model, batches(images, 1), steps)
    every = [(block, head) for block, widths in enumerate(arch.blocks) for head in range(widths.heads)]

    def likelihood(factors: dict[tuple[int, int], float]) -> float:
        with torch.no_grad():
            chances = scaled_heads(model, factors)(images).softmax(dim=-1)
        return sum(float(chances[i, labels[i]].log()) for i in range(2)) / 2

    points, weights = np.polynomial.legendre.leggauss(steps)
    step = 1e-4
    for block, head in every:
        expected = 0.0
        for point, weight in zip(points, weights, strict=True):
            place = float(point + 1) / 2
            on_path = dict.fromkeys(every, place)
            up = likelihood(on_path | {(block, head): place + step})
            down = likelihood(on_path | {(block, head): place - step})
            expected += weight / 2 * (up - down) / (2 * step)
        assert float(got[block][head]) == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_integrated_gradients_add_up(variant: ViT) -> None:
    """Completeness (Sundararajan et al. 2017): the parts sum up to what all heads change."""
    if variant.arch.num_classes == 0:
        pytest.skip("no loss")
    images = random_images(variant.arch, count=3)
    got = loss.integrated_gradients(variant, batches(images, 2), steps=48)
    every = [(block, h) for block, widths in enumerate(variant.arch.blocks) for h in range(widths.heads)]
    without = losses(scaled_heads(variant, dict.fromkeys(every, 0.0)), images)
    expected = float((without - losses(variant, images)).mean())
    assert float(torch.cat(got).sum()) == pytest.approx(expected, rel=2e-3, abs=2e-3)
    assert abs(expected) > 0.01


@pytest.mark.parametrize("name", MEASURES)
def test_heads_are_worth_the_same_where_unread_tokens_are_left_out(name: str, tiny: ViT) -> None:
    less = ViT(replace(TINY, skip_unread=True)).eval()
    less.load_state_dict(tiny.state_dict())
    images = batches(random_images(TINY))
    for got, expected in zip(MEASURES[name](less, images), MEASURES[name](tiny, images), strict=True):
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("name", MEASURES)
def test_a_head_that_proj_does_not_read_is_worth_nothing(name: str, tiny: ViT) -> None:
    found = MEASURES[name](scaled_heads(tiny, {(1, 2): 0.0}), batches(random_images(TINY)))
    assert float(found[1][2]) == 0
    assert float(found[1][0].abs()) > 0 and float(found[0][2].abs()) > 0


@pytest.mark.parametrize("name", MEASURES)
def test_leaves_the_model_untouched(name: str, tiny: ViT) -> None:
    tiny.train()
    frozen = tiny.blocks[0].attn.qkv.weight.requires_grad_(False)
    before = {key: value.clone() for key, value in tiny.state_dict().items()}
    MEASURES[name](tiny, iter(batches(random_images(TINY))))
    assert all(module.training for module in tiny.modules())
    assert not frozen.requires_grad and tiny.head.weight.requires_grad
    assert all(parameter.grad is None for parameter in tiny.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in tiny.modules())
    for key, value in tiny.state_dict().items():
        assert torch.equal(value, before[key]), key


@pytest.mark.parametrize("name", MEASURES)
def test_bad_input_is_refused(name: str, tiny: ViT) -> None:
    with pytest.raises(ValueError, match="the loss is measured on calibration images, got none"):
        MEASURES[name](tiny, [])


def test_integrated_gradients_of_features_add_up() -> None:
    """Without a classifier they share out the divergence from the model without heads."""
    model = random_vit(replace(TINY, num_classes=0))
    images = random_images(TINY, count=3)
    got = loss.integrated_gradients(model, batches(images, 2), steps=48)
    every = [(block, h) for block, widths in enumerate(TINY.blocks) for h in range(widths.heads)]
    with torch.no_grad():
        bare = scaled_heads(model, dict.fromkeys(every, 0.0))
        wanted = float(divergence(output(model, images), output(bare, images)).mean())
    assert float(torch.cat(got).sum()) == pytest.approx(wanted, rel=5e-3)


def test_a_path_needs_points(tiny: ViT) -> None:
    with pytest.raises(ValueError, match="integrated gradients need at least 1 step, got 0"):
        loss.integrated_gradients(tiny, batches(random_images(TINY)), steps=0)
