from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from analysis.measure.cost import cost
from analysis.vit import Architecture, BlockWidths, ViT
from tests.support.models import VARIANTS, random_images, random_vit


def deit(heads: int) -> Architecture:
    return Architecture(
        (224, 224), (16, 16), 64 * heads, (BlockWidths(heads, 64, 64, 256 * heads),) * 12, 1000, 0.125
    )


def test_macs_are_half_of_the_counted_flops(variant: ViT) -> None:
    images = random_images(variant.arch, count=1)
    with FlopCounterMode(display=False) as counter, variant.plain_attention(), torch.no_grad():
        variant(images)
    assert counter.get_total_flops() == 2 * cost(variant.arch).macs


def test_tokens_left_out_are_not_counted(variant: ViT) -> None:
    if variant.arch.pool != "token":
        pytest.skip("average pooling reads every patch")
    whole, images = cost(variant.arch), random_images(variant.arch, count=1)
    less = ViT(replace(variant.arch, skip_unread=True))
    with FlopCounterMode(display=False) as counter, less.plain_attention(), torch.no_grad():
        less(images)
    assert counter.get_total_flops() == 2 * cost(less.arch).macs < 2 * whole.macs
    assert cost(less.arch).params == whole.params
    assert cost(less.arch).blocks[:-1] == whole.blocks[:-1]


@pytest.mark.parametrize("name", VARIANTS)
def test_parameters_are_those_of_the_model(name: str) -> None:
    arch = VARIANTS[name]
    model = random_vit(arch)
    costs = cost(arch)
    assert costs.params == sum(parameter.numel() for parameter in model.parameters())
    assert costs.bytes == sum(p.numel() * p.element_size() for p in model.parameters())
    for block, module in zip(costs.blocks, model.blocks, strict=True):
        assert block.params == sum(parameter.numel() for parameter in module.parameters())
        besides = {"layer": 2, "rms": 1}[arch.norm] + arch.layer_scale  # gain, and bias of a LayerNorm
        own = sum(parameter.numel() for parameter in module.mlp.parameters())
        assert block.mlp.params - own == besides * arch.embed_dim


@pytest.mark.parametrize(
    ("heads", "gmacs", "params"), [(3, 1.2537, 5.717), (6, 4.5989, 22.051), (12, 17.5638, 86.568)]
)
def test_published_models(heads: int, gmacs: float, params: float) -> None:
    costs = cost(deit(heads))
    assert round(costs.gmacs, 4) == gmacs
    assert round(costs.params / 1e6, 3) == params
