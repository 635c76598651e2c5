from __future__ import annotations

import gc
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from analysis.attention.capture import capture
from analysis.vit import ViT
from tests.support.models import random_images


def test_captured_parts_rebuild_the_logits(variant: ViT) -> None:
    """Twin: run the network by hand from what was captured, in plain products."""
    images = random_images(variant.arch)
    x = variant.embed(images)
    with capture(variant) as record:
        for block, module in zip(record(images), variant.blocks, strict=True):
            scores = variant.arch.scale * block.q @ block.k.transpose(-1, -2)
            attention = scores.exp() / scores.exp().sum(-1, keepdim=True)
            torch.testing.assert_close(block.attention, attention)
            torch.testing.assert_close(block.head_output, attention @ block.v, atol=1e-5, rtol=1e-5)
            joined = torch.cat(list((attention @ block.v).unbind(1)), dim=-1)
            x = x + module.ls1(module.attn.proj(joined))
            x = x + module.ls2(module.mlp(module.norm2(x)))
        torch.testing.assert_close(record.logits, variant.classify(x), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(record.logits, variant(images))


def test_heads_are_split_as_the_weights_say(tiny: ViT, images: torch.Tensor) -> None:
    with capture(tiny) as record:
        first = next(record(images))
    normed = tiny.blocks[0].norm1(tiny.embed(images))
    weight, bias = tiny.blocks[0].attn.qkv.weight, tiny.blocks[0].attn.qkv.bias
    head, channel, width, heads = 2, 5, 8, 3
    for start, part in ((0, first.q), (heads * width, first.k), (2 * heads * width, first.v)):
        row = start + head * width + channel
        torch.testing.assert_close(part[:, head, :, channel], normed @ weight[row] + bias[row])


def test_only_one_blocks_maps_are_alive(tiny: ViT, images: torch.Tensor) -> None:
    alive: list[weakref.ref[torch.Tensor]] = []
    with capture(tiny) as record:
        for block in record(images):
            gc.collect()
            assert [ref() for ref in alive if ref() is not None] == []
            alive.append(weakref.ref(block.attention))
            del block  # the loop variable would keep it until the next one arrives


def test_leaves_the_model_as_found(tiny: ViT, images: torch.Tensor) -> None:
    before = {name: value.clone() for name, value in tiny.state_dict().items()}
    tiny.train()
    tiny.blocks[1].eval()
    modes = [module.training for module in tiny.modules()]
    with pytest.raises(RuntimeError, match="stop here"), capture(tiny) as record:
        for _ in record(images):
            assert [module.training for module in tiny.modules()] == modes
            assert all(not m._forward_hooks and not m._forward_pre_hooks for m in tiny.modules())
            raise RuntimeError("stop here")
    assert [module.training for module in tiny.modules()] == modes
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in tiny.modules())
    assert all(parameter.grad is None for parameter in tiny.parameters())
    for name, value in tiny.state_dict().items():
        assert torch.equal(value, before[name])
    assert torch.is_grad_enabled()


def test_no_logits_before_the_last_block(tiny: ViT, images: torch.Tensor) -> None:
    with capture(tiny) as record:
        next(record(images))
        with pytest.raises(ValueError, match="iterate over record"):
            _ = record.logits


def test_two_threads_read_one_model_at_a_time(tiny: ViT) -> None:
    """Sessions of the app share a model: what one reads must not be what another one runs."""
    batches = [random_images(tiny.arch, 8, seed) for seed in range(2)]

    def read(images: torch.Tensor) -> list[torch.Tensor]:
        with capture(tiny) as record:
            return [block.q for block in record(images)]

    alone = [read(images) for images in batches]
    with ThreadPoolExecutor(2) as pool:
        for _ in range(25):
            for expected, got in zip(alone, pool.map(read, batches), strict=True):
                torch.testing.assert_close(got, expected)
