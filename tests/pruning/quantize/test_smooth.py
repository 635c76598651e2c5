from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from analysis.vit import ViT
from pruning.quantize.layers import input_spans, linear_layers
from pruning.quantize.smooth import smooth, smoothing_factors
from tests.support.models import TINY, random_images, random_vit


def logits(model: ViT, images: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return model(images)


@pytest.mark.parametrize("alpha", [0.0, 0.75, 1.0])
def test_no_digit_of_the_logits_changes(variant: ViT, alpha: float) -> None:
    images = random_images(variant.arch)
    before = {name: value.clone() for name, value in variant.state_dict().items()}
    factors = smoothing_factors(variant, input_spans(variant, [images]), alpha)
    smoothed = smooth(variant, factors)
    assert len(factors) == 2 * variant.arch.depth
    assert any(float(one.max()) != 1 for one in factors.values())
    assert torch.equal(logits(smoothed, images), logits(variant, images))
    assert all(torch.equal(value, before[name]) for name, value in variant.state_dict().items())


@pytest.mark.parametrize("norm", ["layer", "rms"])
def test_where_unread_tokens_are_left_out_the_last_qkv_stays_as_it_is(norm: str) -> None:
    model = random_vit(replace(TINY, skip_unread=True, layer_scale=True, norm=norm))
    images = random_images(TINY)
    spans = input_spans(model, [images])
    assert "blocks.1.attn.qkv" not in spans and "blocks.0.attn.qkv" in spans
    smoothed = smooth(model, smoothing_factors(model, spans, 0.5))
    name = "blocks.1.norm1.weight"
    assert torch.equal(smoothed.get_parameter(name), model.get_parameter(name))
    assert torch.equal(logits(smoothed, images), logits(model, images))


def test_factors_are_smoothquants_to_the_nearest_power_of_two(tiny: ViT, images: torch.Tensor) -> None:
    spans = input_spans(tiny, [images])
    for name, factors in smoothing_factors(tiny, spans, 0.75).items():
        weight = linear_layers(tiny)[name].weight.detach()
        for channel, factor in enumerate(factors.tolist()):
            wanted = float(spans[name].peak[channel]) ** 0.75 / float(weight[:, channel].abs().max()) ** 0.25
            assert 2**-0.5001 < factor / wanted < 2**0.5001
            assert torch.tensor(factor).log2() == torch.tensor(factor).log2().round()


def test_spans_of_the_smoothed_model_are_known_without_another_pass(tiny: ViT, images: torch.Tensor) -> None:
    spans = input_spans(tiny, [images[:2], images[2:]])
    factors = smoothing_factors(tiny, spans, 0.5)
    found = input_spans(smooth(tiny, factors), [images])
    for name, span in found.items():
        known = spans[name].over(factors[name]) if name in factors else spans[name]
        torch.testing.assert_close(span.low, known.low)
        torch.testing.assert_close(span.high, known.high)


def test_a_channel_of_zeros_is_no_problem(tiny: ViT, images: torch.Tensor) -> None:
    with torch.no_grad():
        for name in ("blocks.0.norm1", "blocks.1.norm2"):
            tiny.get_parameter(f"{name}.weight")[3] = 0
            tiny.get_parameter(f"{name}.bias")[3] = 0
        tiny.blocks[0].attn.qkv.weight[:, 5] = 0
    smoothed = smooth(tiny, smoothing_factors(tiny, input_spans(tiny, [images]), 0.5))
    assert torch.equal(logits(smoothed, images), logits(tiny, images))


def test_bad_input(tiny: ViT, images: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"alpha must be from 0 to 1, got 1\.5"):
        smoothing_factors(tiny, input_spans(tiny, [images]), 1.5)
    with pytest.raises(ValueError, match="there are no calibration images"):
        input_spans(tiny, [])
    assert not any(layer._forward_pre_hooks for layer in linear_layers(tiny).values())
