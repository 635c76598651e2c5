from __future__ import annotations

import contextlib
import copy
import warnings
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.utils.parametrize
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from analysis import vit
from analysis.vit import BlockWidths, ViT
from tests.support.models import TINY, VARIANTS, random_images, random_vit


def test_fused_and_plain_attention_agree(variant: ViT) -> None:
    images = random_images(variant.arch)
    with torch.no_grad():
        fused = variant(images)
        with variant.plain_attention():
            plain = variant(images)
    assert fused.std() > 0.01
    torch.testing.assert_close(fused, plain, atol=1e-5, rtol=1e-5)
    assert all(block.attn.fused for block in variant.blocks)


@pytest.mark.parametrize("fused", [True, False])
def test_leaving_out_unread_tokens_changes_no_logit(fused: bool, variant: ViT) -> None:
    if variant.arch.pool != "token":
        pytest.skip("average pooling reads every patch")
    less, images = ViT(replace(variant.arch, skip_unread=True)), random_images(variant.arch)
    less.load_state_dict(variant.state_dict())
    with contextlib.nullcontext() if fused else less.plain_attention():
        torch.testing.assert_close(less(images), variant(images), atol=1e-5, rtol=1e-5)


def test_only_the_last_block_leaves_tokens_out(tiny: ViT) -> None:
    less, seen = ViT(replace(tiny.arch, skip_unread=True)), []
    for block in less.blocks:
        block.register_forward_hook(lambda _, __, out: seen.append(out[0].shape[1]))
    less(random_images(tiny.arch))
    assert seen == [tiny.arch.num_tokens] * (tiny.arch.depth - 1) + [1]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize(
    "widths", [(1, 5, 2), (13, 7, 3), (20, 27, 3), (27, 27, 3), (36, 36, 3), (64, 64, 3)]
)
def test_any_widths_run_on_a_gpu(widths: tuple[int, int, int], bf16: bool) -> None:
    """Its attention kernels refuse rows that begin in the wrong place, forwards and backwards."""
    qk, v, heads = widths
    model = random_vit(replace(TINY, blocks=(BlockWidths(heads, qk, v, 33),) * 2))
    images = random_images(model.arch)
    exact = model.double()(images.double()).detach()
    moved = model.float().cuda()
    for learns in (False, True):
        with torch.autocast("cuda", torch.bfloat16, enabled=bf16), torch.set_grad_enabled(learns):
            got = moved(images.cuda())
        if learns:
            got.float().square().sum().backward()
        worst = (got.detach().double().cpu() - exact).abs().max() / exact.abs().max()
        assert worst < (0.03 if bf16 else 1e-4)


def test_padding_keeps_the_fast_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Queries, keys and values reach the kernel with one width, whatever theirs is.

    Unless their maps are few: plain products are faster there, and give the same.
    """
    seen = []
    original = torch.nn.functional.scaled_dot_product_attention

    def spy(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **settings: Any) -> torch.Tensor:
        seen.append({q.shape[-1], k.shape[-1], v.shape[-1]})
        return original(q, k, v, **settings)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", spy)
    model, images = random_vit(VARIANTS["uneven"]), random_images(TINY)
    plain = model(images)
    assert seen == []
    monkeypatch.setattr(vit, "_CACHED", 0)
    torch.testing.assert_close(model(images), plain)
    assert seen == [{7}, {9}]


def test_scale_is_the_architectures_not_the_widths() -> None:
    model = random_vit(VARIANTS["uneven"])
    images = random_images(model.arch)
    other = ViT(replace(model.arch, scale=0.9)).eval()
    other.load_state_dict(model.state_dict())
    assert not torch.allclose(model(images), other(images), atol=1e-3)


def test_tokens_are_prefix_then_patches() -> None:
    arch = replace(TINY, registers=2)
    model = random_vit(arch)
    tokens = model.embed(random_images(arch))
    assert arch.prefix_names == ("class", "register 1", "register 2")
    assert arch.grid == (2, 3)
    assert tokens.shape == (4, arch.num_tokens, 24)
    expected = model.get_parameter("cls_token") + model.pos_embed[:, :1]
    torch.testing.assert_close(tokens[0, :1], expected[0])


def test_rms_norm_divides_by_the_root_mean_square_alone() -> None:
    arch = replace(TINY, norm="rms", norm_eps=0.1)
    model = random_vit(arch)
    x = model.embed(random_images(arch)) + 3  # far from centred
    for norm in (model.blocks[0].norm1, model.blocks[1].norm2, model.norm):
        assert [name for name, _ in norm.named_parameters()] == ["weight"]
        expected = x / (x.square().mean(dim=-1, keepdim=True) + 0.1).sqrt() * norm.get_parameter("weight")
        torch.testing.assert_close(norm(x), expected)


def test_wrong_image_size_is_refused(tiny: ViT) -> None:
    with pytest.raises(ValueError, match=r"takes images of \(16, 24\) pixels, got \(24, 16\)"):
        tiny(torch.zeros(1, 3, 24, 16))


def test_plain_attention_restores_after_an_error(tiny: ViT) -> None:
    tiny.blocks[0].attn.fused = False
    with pytest.raises(KeyError), tiny.plain_attention():
        raise KeyError
    assert [block.attn.fused for block in tiny.blocks] == [False, True]


def test_init_weights_leaves_no_symmetry() -> None:
    torch.manual_seed(0)
    model = ViT(TINY)
    model.init_weights()
    assert all(model.get_parameter(name).std() > 0 for name in ("cls_token", "head.weight"))
    assert not bool(model.blocks[0].attn.qkv.bias.any())
    torch.testing.assert_close(model.norm.weight, torch.ones(24))


# ---- what is added to `qkv` from outside, in a model whose last block would absorb it


class _Adapter(nn.Module):
    """A low-rank addition to a linear layer, as LoRA makes it."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer = layer
        torch.manual_seed(1)
        self.down = nn.Parameter(torch.randn(2, layer.in_features))
        self.up = nn.Parameter(torch.randn(layer.out_features, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.layer(x) + x @ self.down.T @ self.up.T
        return out


@pytest.mark.parametrize("way", ["adapter", "parametrisation", "hook", "before", "quantised"])
def test_what_is_added_to_qkv_counts_in_a_lean_model_too(way: str, tiny: ViT) -> None:
    """The same change to both models gives the same logits, and other logits than without it."""
    lean = ViT(replace(tiny.arch, skip_unread=True)).eval()
    lean.load_state_dict(tiny.state_dict())
    images, outputs = random_images(tiny.arch), []
    for given in (copy.deepcopy(tiny), lean):
        model: nn.Module = given
        before, attn = given(images), given.blocks[-1].attn
        if way == "adapter":
            attn.qkv = _Adapter(attn.qkv)
        elif way == "parametrisation":
            nn.utils.parametrize.register_parametrization(attn.qkv, "weight", _Doubled())
        elif way == "hook":
            attn.qkv.register_forward_hook(lambda module, given, out: 2 * out)
        elif way == "before":
            attn.qkv.register_forward_pre_hook(lambda module, given: (2 * given[0],))
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # it is deprecated, and used
                model = torch.ao.quantization.quantize_dynamic(given, {nn.Linear})
        outputs.append(model(images))
        assert not torch.allclose(outputs[-1], before, atol=1e-3)
    # dynamic quantisation scales by all tokens of a layer's input, which are fewer in a lean model
    torch.testing.assert_close(outputs[0], outputs[1], atol=1e-5 if way != "quantised" else 0.2, rtol=1e-4)


class _Doubled(nn.Module):
    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return 2 * weight


def test_a_lean_model_is_exported_lean(tiny: ViT) -> None:
    """The exported program has the last block's short form: as many multiply-accumulates as the model."""
    lean = ViT(replace(tiny.arch, skip_unread=True)).eval()
    images = random_images(tiny.arch)
    for strict in (False, True):
        with lean.plain_attention():
            program = torch.export.export(lean, (images,), strict=strict).module()
            counted = []
            for model in (lean, program, tiny):
                with FlopCounterMode(display=False) as counter, tiny.plain_attention():
                    model(images)
                counted.append(counter.get_total_flops())
        assert counted[0] == counted[1] < counted[2]
