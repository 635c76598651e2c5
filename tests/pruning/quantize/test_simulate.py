from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from analysis.vit import ViT
from pruning.quantize.layers import Span, input_spans, linear_layers
from pruning.quantize.simulate import Int8Linear, activation_grid, simulated


def twin(layer: nn.Linear, span: Span, x: torch.Tensor) -> np.ndarray:
    """One layer in whole numbers, element by element: bytes, their sums of products, and one scaling."""
    low, high = min(0.0, span.low.min().item()), max(0.0, span.high.max().item())
    scale = (high - low) / 255
    zero = round(-low / scale)
    weight, bias = layer.weight.detach().double().numpy(), layer.bias.detach().double().numpy()
    out = np.zeros((len(x), len(weight)))
    for row, values in enumerate(x.double().numpy()):
        bytes_in = [min(255, max(0, round(value / scale) + zero)) for value in values]
        for channel, weights in enumerate(weight):
            own = max(abs(weights)) / 127
            total = 0
            for byte, value in zip(bytes_in, weights, strict=True):
                total += (byte - zero) * min(127, max(-127, round(value / own)))
            out[row, channel] = total * scale * own + bias[channel]
    return out


@pytest.mark.parametrize("shift", [-3.0, 0.0, 0.4, 5.0])
def test_a_layer_is_what_whole_numbers_give(shift: float) -> None:
    generator = torch.Generator().manual_seed(2)
    layer = nn.Linear(11, 7)
    x = torch.randn(6, 11, generator=generator) + shift
    span = Span(x[:4].amin(dim=0), x[:4].amax(dim=0))  # values of the last two rows may lie outside
    with torch.no_grad():
        got = Int8Linear(layer, span)(x).double().numpy()
        plain = layer(x).double().numpy()
    np.testing.assert_allclose(got, twin(layer, span, x), atol=2e-5)
    assert abs(got[:4] - plain[:4]).max() > 1e-4  # rounding did happen


def test_the_grid_holds_zero_exactly() -> None:
    for low, high in ((-1.0, 3.0), (2.0, 4.0), (-5.0, -1.0), (0.0, 0.0)):
        scale, zero = activation_grid(Span(torch.tensor([low, low]), torch.tensor([high, low])))
        assert 0 <= zero <= 255 and scale > 0
        assert -zero * scale <= min(low, 0) + scale and (255 - zero) * scale >= max(high, 0) - scale


def test_layers_held_in_float_are_left_alone(tiny: ViT, images: torch.Tensor) -> None:
    spans = input_spans(tiny, [images])
    every = list(linear_layers(tiny))
    with torch.inference_mode():
        assert torch.equal(simulated(tiny, spans, every)(images), tiny(images))
        assert not torch.equal(simulated(tiny, spans)(images), tiny(images))
    one = simulated(tiny, spans, ["blocks.1.mlp.fc2"])
    assert [name for name, module in one.named_modules() if type(module) is nn.Linear] == ["blocks.1.mlp.fc2"]
    assert not any(isinstance(module, Int8Linear) for module in tiny.modules())


def test_every_variant_can_be_simulated(variant: ViT) -> None:
    images = torch.randn(3, 3, *variant.arch.image_size, generator=torch.Generator().manual_seed(5))
    with torch.inference_mode():
        got, plain = simulated(variant, input_spans(variant, [images]))(images), variant(images)
    assert 0 < float((got - plain).abs().max()) < 0.2 * float(plain.abs().max())
