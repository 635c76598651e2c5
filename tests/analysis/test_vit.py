from __future__ import annotations

import contextlib
import copy
import json
import re
import tracemalloc
import warnings
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.utils.parametrize
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from analysis import vit
from analysis.vit import Architecture, BlockWidths, ViT
from tests.support.edits import require_refused
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


def test_architecture_survives_json() -> None:
    for arch in VARIANTS.values():
        again = Architecture.from_json(arch.to_json())
        assert again == arch and hash(again) == hash(arch)


def test_architectures_from_before_rms_norms_are_read() -> None:
    data = json.loads(TINY.to_json())
    assert data.pop("norm") == "layer"
    assert Architecture.from_json(json.dumps(data)) == TINY


def test_rms_norm_divides_by_the_root_mean_square_alone() -> None:
    arch = replace(TINY, norm="rms", norm_eps=0.1)
    model = random_vit(arch)
    x = model.embed(random_images(arch)) + 3  # far from centred
    for norm in (model.blocks[0].norm1, model.blocks[1].norm2, model.norm):
        assert [name for name, _ in norm.named_parameters()] == ["weight"]
        expected = x / (x.square().mean(dim=-1, keepdim=True) + 0.1).sqrt() * norm.get_parameter("weight")
        torch.testing.assert_close(norm(x), expected)


def test_architectures_from_before_there_was_a_version_are_read() -> None:
    data = json.loads(TINY.to_json())
    assert data.pop("version") == vit.VERSION == 3
    assert list(data) == [field.name for field in fields(Architecture)]  # nothing else has changed
    assert Architecture.from_json(json.dumps(data)) == TINY
    with pytest.raises(
        ValueError, match=r"^this was written by a later PruneScope \(version 4; this one reads up"
    ):
        Architecture.from_json(json.dumps(data | {"version": 4, "tokens": 3}))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "this cannot be read as JSON: Expecting value"),
        ("[" * 100_000, "this is nested too deeply to be read as JSON"),
        ('{"embed_dim": ' + "9" * 5000 + "}", "this cannot be read as JSON: a number in it has thousands"),
        ('{"embed_dim": 1, "embed_dim": 2}', "this cannot be read as JSON: embed_dim stands twice"),
        ("[]", r"this must be an object, got \[\]"),
        ("{}", "image_size is missing"),
        ('{"version": "1"}', "version must be a whole number of at least 0, got '1'"),
    ],
)
def test_bad_json_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        Architecture.from_json(text)


def test_every_field_is_held_to_its_type(tmp_path: Path) -> None:
    """Bools are no ints, floats are no ints, "8" is no number."""
    file = tmp_path / "architecture.json"
    file.write_text(replace(TINY, layer_scale=True).to_json())
    optional = [field.name for field in fields(Architecture) if field.default is not MISSING]
    fine = [f"({'|'.join(optional)}): missing", r"blocks\[.\]\.merge: missing"]

    def read() -> Architecture:
        try:
            return Architecture.from_json(file.read_text())
        except ValueError as error:
            raise ValueError(f"architecture.json: {error}") from error

    assert require_refused(file, read, fine, (), lambda name: re.sub(r"(_size)\[.\]", r"\1", name)) > 150


@pytest.mark.parametrize("name", [field.name for field in fields(Architecture)])
def test_what_code_passes_in_is_checked_too(name: str) -> None:
    for value in (None, "8" if name != "pool" else 8, [3, 4]):
        change: dict[str, Any] = {name: value}
        with pytest.raises(ValueError, match=name):
            replace(TINY, **change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"embed_dim": 0}, "embed_dim must be a whole number of at least 1, got 0"),
        ({"blocks": ()}, "at least one block"),
        ({"pool": "max"}, "pool must be one of token, avg"),
        ({"norm": "batch"}, "norm must be one of layer, rms, got 'batch'"),
        ({"class_token": False}, "needs a class token"),
        ({"scale": 0.0}, "scale must be from 1e-06 to 1000, got 0.0"),
        ({"image_size": (4, 24)}, "image_size must be a whole number of at least 8"),
        ({"activation": "relu6"}, "activation must be one of"),
        ({"distilled": True, "pool": "avg"}, "a distilled model needs"),
        ({"skip_unread": True, "pool": "avg"}, "skip_unread needs pool 'token'"),
    ],
)
def test_impossible_architectures_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(TINY, **change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"registers": 10**9}, "registers must be at most 1,024, got 1000000000"),
        ({"registers": 10**400}, "registers must be at most 1,024, got 1000"),
        ({"class_token": 10**9}, "class_token must be true or false"),
        ({"num_classes": 10**9}, "num_classes must be at most 65,536"),
        ({"in_channels": 10**9}, "in_channels must be at most 64"),
        ({"embed_dim": 10**9}, "embed_dim must be at most 16,384"),
        ({"image_size": (10**9, 10**9)}, "image_size must be at most 4,096"),
        ({"image_size": (10**9, 10**9), "patch_size": (10**9, 10**9)}, "patch_size must be at most 4,096"),
        ({"image_size": (4096, 4096)}, "give 262,145 tokens, at most 16,384 are allowed"),
        ({"blocks": (BlockWidths(3, 8, 8, 32),) * 20_000}, "blocks must be at most 256, got 20,000"),
        (
            {"image_size": (512, 512), "blocks": (BlockWidths(3, 8, 8, 2**17),)},
            "the widest layer gives 537,001,984 numbers for one image, at most 134,217,728",
        ),
        (
            {"embed_dim": 2**14, "blocks": (BlockWidths(64, 64, 64, 2**17),) * 2},
            "the model would have 9,",
        ),
        ({"scale": 1e38}, r"scale must be from 1e-06 to 1000, got 1e\+38"),
        ({"scale": 10**400}, "scale must be from 1e-06 to 1000, got 1000"),
        ({"norm_eps": -1.0}, "norm_eps must be from 1e-15 to 1, got -1.0"),
        ({"norm_eps": 1e30}, "norm_eps must be from 1e-15 to 1"),
    ],
)
def test_architectures_beyond_the_bounds_are_refused_before_memory_is_taken(
    change: dict[str, Any], message: str
) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=message):
            replace(TINY, **change)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", [field.name for field in fields(BlockWidths)])
def test_block_widths_are_bounded(name: str) -> None:
    with pytest.raises(ValueError, match=f"block width '{name}' must be at most"):
        replace(BlockWidths(3, 8, 8, 32), **{name: 10**9})


def test_the_largest_vits_in_use_are_within_the_bounds() -> None:
    blocks = (BlockWidths(48, 128, 128, 24_576),) * 8
    replace(TINY, image_size=(896, 896), patch_size=(14, 14), embed_dim=6144, blocks=blocks)
    replace(TINY, image_size=(1024, 1024), patch_size=(16, 16), embed_dim=1664, registers=4)
    replace(TINY, image_size=(224, 224), embed_dim=1280, blocks=(BlockWidths(16, 80, 80, 5120),) * 32)


def test_many_blocks_in_a_file_are_refused_before_each_is_read() -> None:
    data = json.loads(TINY.to_json()) | {"blocks": [None] * 20_000}
    with pytest.raises(ValueError, match="blocks must be at most 256, got 20,000"):
        Architecture.from_json(json.dumps(data))


@pytest.mark.parametrize("depth", [100, 900, 100_000])
@pytest.mark.parametrize("name", ["scale", "blocks", "image_size", "version", "mood"])
def test_nested_values_are_one_sentence(name: str, depth: int) -> None:
    nested = "[" * depth + "]" * depth
    with pytest.raises(ValueError, match=r"^[^\n]{10,200}$"):
        Architecture.from_json(TINY.to_json().rstrip()[:-1] + f', "{name}2": {nested}' + "}")
    version = f'"version": {vit.VERSION}'
    for text in (f'{{"{name}": {nested}', TINY.to_json().replace(version, f'"version": {nested}')):
        with pytest.raises(ValueError, match=r"^[^\n]{10,200}$"):
            Architecture.from_json(text)


def test_impossible_widths_are_refused() -> None:
    with pytest.raises(ValueError, match="block width 'qk' must be a whole number of at least 1"):
        BlockWidths(3, 0, 8, 32)


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
