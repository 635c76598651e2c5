import argparse
import gzip
import json
import os
import pickle
import re
import sys
import threading
import time
import zipfile
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import timm
import torch
from huggingface_hub import constants
from safetensors.torch import save_file
from timm.layers import GatedMlp, GluMlp, LayerNorm, RmsNorm, SwiGLU
from timm.models.vision_transformer import ParallelScalingBlock
from torch import nn

from analysis.architecture import VERSION
from analysis.models import Reading, timm_source
from analysis.models.load import (
    UnsupportedModelError,
    architecture,
    from_timm,
    load,
    load_named,
    read_bundle,
    suggested,
)
from analysis.models.preprocess import Preprocess
from analysis.models.reading import Named
from analysis.vit import Architecture, BlockWidths, ViT
from pruning.bundle.write import write_bundle
from tests.support.edits import require_refused

SMALL = {"depth": 2, "img_size": 64, "num_classes": 7}


def randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    """Every parameter away from its initial value: biases, tokens, norms and LayerScale too."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            one = parameter.ndim == 1 and name.endswith(("weight", "gamma"))
            parameter.copy_(one + noise * (0.2 if parameter.ndim == 1 else 0.05))
    return model.eval()


def timm_model(name: str, **options: object) -> nn.Module:
    with torch.device("meta"):
        model = timm.create_model(name, **options)
    model = randomise(model.to_empty(device="cpu"))
    timm_source.fill_buffers(model, everywhere=True)
    return model


def images(arch: Architecture) -> torch.Tensor:
    return torch.randn(2, 3, *arch.image_size, generator=torch.Generator().manual_seed(3))


FAMILIES = {
    "vit_tiny": ("vit_tiny_patch16_224", {}),
    "vit_small": ("vit_small_patch16_224", {}),
    "vit_base": ("vit_base_patch16_224", {"depth": 1}),
    "vit_small_32": ("vit_small_patch32_224", {}),
    "vit_base_32": ("vit_base_patch32_224", {"depth": 1}),
    "deit_tiny": ("deit_tiny_patch16_224", {}),
    "deit_small": ("deit_small_patch16_224", {}),
    "deit_base": ("deit_base_patch16_224", {"depth": 1}),
    "distilled": ("deit_tiny_distilled_patch16_224", {}),
    "distilled without heads": ("deit_tiny_distilled_patch16_224", {"num_classes": 0}),
    "deit3": ("deit3_small_patch16_224", {}),
    "dinov2": ("vit_small_patch14_dinov2", {"img_size": 56}),
    "dinov2 registers": ("vit_small_patch14_reg4_dinov2", {"img_size": 56}),
    "clip": ("vit_base_patch16_clip_224", {"depth": 1}),
    "clip quickgelu": ("vit_base_patch32_clip_quickgelu_224", {"depth": 1}),
    "gelu tanh": ("vit_base_patch16_siglip_gap_224", {"depth": 1}),
    "no class token": ("vit_medium_patch16_gap_256", {}),
    "registers, avg": ("vit_medium_patch16_reg4_gap_256", {}),
    "avg, norm behind": ("vit_tiny_patch16_224", {"global_pool": "avg"}),
    "avg, norm before": ("vit_tiny_patch16_224", {"global_pool": "avg", "fc_norm": False}),
    "token, norm behind": ("vit_tiny_patch16_224", {"fc_norm": True}),
    "not square": ("vit_tiny_patch16_224", {"img_size": (64, 96)}),
    "size no multiple of the patch": ("vit_tiny_patch16_224", {"img_size": (70, 50)}),
    "not square patches": ("vit_tiny_patch16_224", {"patch_size": (8, 16)}),
    "any size": ("vit_tiny_patch16_224", {"dynamic_img_size": True}),
    "no head": ("vit_tiny_patch16_224", {"num_classes": 0}),
    "no qkv bias": ("vit_tiny_patch16_224", {"qkv_bias": False}),
    "three channels of another number": ("vit_tiny_patch16_224", {"mlp_ratio": 2.5, "num_heads": 6}),
    "no final norm": ("vit_tiny_patch16_224", {"final_norm": False}),
    "prefix in the mean": ("vit_tiny_patch16_224", {"global_pool": "avg", "pool_include_prefix": True}),
    "rms norm": ("vit_tiny_patch16_224", {"norm_layer": RmsNorm}),
    "no proj bias": ("vit_tiny_patch16_224", {"proj_bias": False}),
    "embed norm": ("vit_tiny_patch16_224", {"embed_norm_layer": LayerNorm}),
    "no position": ("vit_tiny_patch16_224", {"pos_embed": "none"}),
    "radio": ("vit_base_patch16_radio_v3", {"depth": 1}),
    "swiglu": ("vit_tiny_patch16_224", {"mlp_layer": SwiGLU, "act_layer": "silu"}),
    "gate last": ("vit_tiny_patch16_224", {"mlp_layer": GluMlp}),
    "swiglu packed": ("vit_giant_patch14_dinov2", {"depth": 1, "img_size": 28, "embed_dim": 96}),
    "aimv2": ("aimv2_large_patch14_224", {"depth": 1, "img_size": 28, "embed_dim": 96}),
    "inner norms": ("vit_tiny_patch16_224", {"scale_attn_norm": True, "scale_mlp_norm": True}),
    "qk-norm": ("vit_tiny_patch16_224", {"qk_norm": True}),
    "siglip": ("vit_base_patch16_siglip_224", {"depth": 1, "embed_dim": 96}),
    "attention pooling of prefix tokens": ("test_vit3", {}),
    "eva": ("eva_giant_patch14_224", {"embed_dim": 96, "img_size": 28}),
    "eva02, one qkv": ("eva02_tiny_patch14_224", {"img_size": 28}),
    "eva02, q, k and v": ("eva02_base_patch14_224", {"img_size": 28, "embed_dim": 96}),
    "eva02 clip": ("eva02_base_patch16_clip_224", {"embed_dim": 96}),
    "rope, registers": ("vit_medium_patch16_rope_reg1_gap_256", {"embed_dim": 96}),
    "rope, mixed": ("vit_small_patch16_rope_mixed_ape_224", {"embed_dim": 96, "img_size": (32, 80)}),
    "perception encoder": ("vit_pe_core_tiny_patch16_384", {}),
    "dinov3": ("vit_small_patch16_dinov3", {"embed_dim": 96, "img_size": (48, 80)}),
    "dinov3, gated": ("vit_small_plus_patch16_dinov3_qkvb", {"embed_dim": 96}),
    "sapiens2": (
        "vit_base_patch16_sapiens2",
        {"embed_dim": 96, "num_kv_heads": (6, 12), "img_size": (48, 32)},
    ),
    "beit": ("beit_base_patch16_224", {"embed_dim": 96}),
    "relpos": ("vit_relpos_base_patch16_clsgap_224", {"embed_dim": 96, "img_size": (32, 48)}),
    "relpos, shared": ("vit_srelpos_small_patch16_224", {"embed_dim": 96, "img_size": (32, 48)}),
}


@pytest.mark.parametrize(("name", "options"), FAMILIES.values(), ids=FAMILIES.keys())
def test_logits_are_timms(name, options):
    theirs = timm_model(name, **(SMALL | options))
    ours = from_timm(theirs)
    assert not ours.training
    x = images(ours.arch)
    with torch.inference_mode():
        expected, fused = theirs(x), ours(x)
        with ours.plain_attention():
            plain = ours(x)
    torch.testing.assert_close(fused, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(plain, expected, rtol=1e-4, atol=1e-4)


def test_conversion_leaves_the_timm_model_and_copies():
    theirs = timm_model("vit_tiny_patch16_224", **SMALL).half().train()
    before = {name: value.clone() for name, value in theirs.state_dict().items()}
    rng = torch.random.get_rng_state()
    ours = from_timm(theirs)
    assert torch.equal(torch.random.get_rng_state(), rng)
    assert theirs.training
    assert all(parameter.dtype == torch.float32 for parameter in ours.parameters())
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.add_(1)
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)


def test_conversion_notices_what_the_structure_does_not_tell():
    theirs = timm_model("vit_tiny_patch16_224", **SMALL)
    attention = theirs.get_submodule("blocks.1.attn")
    attention.register_forward_hook(lambda module, args, out: out * 1.5)
    with pytest.raises(UnsupportedModelError, match="logits differ"):
        from_timm(theirs)


REFUSED = {
    "eva02, post-norm": ("eva02_enormous_patch14_clip_224", {"depth": 1}, "norms come after"),
    "kind of mlp": ("vit_tiny_patch16_224", {"mlp_layer": GatedMlp}, "GatedMlp"),
    "activation": ("vit_tiny_patch16_224", {"act_layer": "relu"}, "activation ReLU"),
    "differential": ("vit_dlittle_patch16_reg1_gap_256", {}, "DiffAttention"),
    "parallel": ("vit_pwee_patch16_reg1_gap_256", {}, "run in parallel"),
    "parallel block": ("vit_tiny_patch16_224", {"block_fn": ParallelScalingBlock}, "run in parallel"),
    "several": ("vit_small_patch16_18x2_224", {}, "several attentions"),
    "post-norm": ("vit_base_patch16_rpn_224", {}, "norms come after"),
    "swin": ("swin_tiny_patch4_window7_224", {}, "windowed attention"),
    "swin v2": ("swinv2_tiny_window8_256", {}, "windowed attention"),
    "sam": ("samvit_base_patch16", {}, "windowed attention"),
    "relpos, post-norm": ("vit_relpos_small_patch16_rpn_224", {}, "norms come after"),
    "naflex": ("naflexvit_base_patch16_gap", {}, "varying length"),
    "cait": ("cait_xxs24_224", {}, "another kind of network with attention"),
    "resnet": ("resnet18", {}, "without attention heads.*ResNet"),
    "prr": ("vit_tiny_patch16_224", {"global_pool": "prr"}, "attention of another kind.*'prr'"),
    "max": ("vit_tiny_patch16_224", {"global_pool": "max"}, "pools by 'max'"),
    "avgmax": ("vit_tiny_patch16_224", {"global_pool": "avgmax"}, "pools by 'avgmax'"),
    "no pool": ("vit_tiny_patch16_224", {"global_pool": ""}, "pools by 'nothing'"),
    "hybrid": ("vit_tiny_r_s16_p8_224", {}, "HybridEmbed"),
    "embed norm": ("vit_tiny_patch16_224", {"embed_norm_layer": nn.BatchNorm1d}, "patch_embed.norm"),
}


@pytest.mark.parametrize(("name", "options", "reason"), REFUSED.values(), ids=REFUSED.keys())
def test_refusals_name_model_and_reason(name, options, reason):
    with torch.device("meta"):
        model = timm.create_model(name, **options)
    with pytest.raises(
        UnsupportedModelError, match=f"^{name} is not supported: .*{reason}.*deit_tiny"
    ) as info:
        from_timm(model)
    assert "\n" not in str(info.value)


def test_refused_before_any_weights_are_asked_for(tmp_path):
    with pytest.raises(UnsupportedModelError, match="resnet18 is not supported"):
        load("resnet18", tmp_path / "missing.safetensors", Reading(image_size=(64, 64)))
    with pytest.raises(UnsupportedModelError, match="cait_xxs24_224 is not supported"):
        architecture("cait_xxs24_224")


# ---- architecture and names


def test_architecture_needs_neither_weights_nor_network(monkeypatch):
    monkeypatch.setattr(timm_source, "_hub_answers", lambda: pytest.fail("asked for the network"))
    assert architecture("deit_tiny_patch16_224") == Architecture(
        image_size=(224, 224),
        patch_size=(16, 16),
        embed_dim=192,
        blocks=(BlockWidths(3, 64, 64, 768),) * 12,
        num_classes=1000,
        scale=0.125,
    )
    arch = architecture("vit_small_patch14_dinov2.lvd142m", Reading(image_size=(56, 84), num_classes=5))
    assert (arch.image_size, arch.num_classes, arch.layer_scale) == ((56, 84), 5, True)


@pytest.mark.parametrize("name", suggested()[1:])
def test_suggested_names_are_supported(name):
    assert architecture(name).depth == 12


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "deit_tiny_patch16_244",
            "no model named 'deit_tiny_patch16_244'; did you mean deit_tiny_patch16_224",
        ),
        ("hf-hub:vit_tiny", "named hf-hub:OWNER/NAME, got 'hf-hub:vit_tiny'"),
        ("", "did you mean deit_tiny_patch16_224"),
        ("deit_tiny_patch16_224.nonsense", "no weights tagged 'nonsense'; available are .*fb_in1k"),
        ("timm/vit_tiny_patch16_224", "no bundle folder at timm/vit_tiny.*hf-hub:"),
    ],
)
def test_unknown_names(name, message):
    for function in (load, architecture):
        with pytest.raises(ValueError, match=message):
            function(name)


@pytest.mark.parametrize("size", [(60, 64), (8, 64), (0, 16)])
def test_image_size_must_fit_the_patches(size):
    with pytest.raises(ValueError, match="multiples of the patch size 16 x 16"):
        architecture("vit_tiny_patch16_224", Reading(image_size=size))


def test_num_classes_must_not_be_negative():
    with pytest.raises(ValueError, match="0 \\(no head\\) or more, got -1"):
        architecture("vit_tiny_patch16_224", Reading(num_classes=-1))


# ---- local weights


@pytest.fixture(scope="module")
def tiny() -> nn.Module:
    return timm_model("test_vit", img_size=64, num_classes=7)


@pytest.fixture(scope="module")
def tiny_state(tiny):
    return tiny.state_dict()


def load_tiny(file: Path):
    return load("test_vit", file, Reading(image_size=(64, 64)))


def assert_same_logits(loaded, theirs):
    x = images(loaded.model.arch)
    with torch.inference_mode():
        torch.testing.assert_close(loaded.model(x), theirs(x), rtol=1e-4, atol=1e-4)


def test_local_safetensors(tiny, tiny_state, tmp_path):
    file = tmp_path / "tiny.safetensors"
    save_file(tiny_state, file)
    loaded = load_tiny(file)
    assert_same_logits(loaded, tiny)
    assert loaded.name == "test_vit"
    assert loaded.source == f"weights {file}"
    assert loaded.preprocess == Preprocess(image_size=(64, 64), crop_pct=0.95)
    assert not loaded.model.training


@pytest.mark.parametrize(
    "nest",
    [
        lambda s: s,
        lambda s: {"model": s},
        lambda s: {"state_dict": s, "epoch": 3},
        lambda s: {"model": {"x": 1}, "model_ema": s, "args": argparse.Namespace(lr=0.1)},
        lambda s: {f"module.{k}": v for k, v in s.items()},
        lambda s: {"model": {f"_orig_mod.module.{k}": v.half() for k, v in s.items()}},
    ],
    ids=["bare", "model", "state_dict", "model_ema", "module.", "compiled half"],
)
@pytest.mark.parametrize("suffix", [".pth", ".bin"])
def test_local_checkpoints(nest, suffix, tiny_state, tmp_path):
    file = tmp_path / f"tiny{suffix}"
    torch.save(nest(tiny_state), file)
    state = load_tiny(file).model.state_dict()
    for name, value in tiny_state.items():
        torch.testing.assert_close(state[name], value, rtol=1e-3, atol=1e-3)


def test_weights_decide_the_classes_and_none_drops_the_head(tiny, tiny_state, tmp_path):
    file = tmp_path / "tiny.safetensors"
    save_file(tiny_state, file)
    assert load_tiny(file).model.arch.num_classes == 7
    features = load("test_vit", file, Reading(image_size=(64, 64), num_classes=0))
    assert features.model.arch.num_classes == 0
    with pytest.raises(ValueError, match=r"'head\.weight': 7 x 64, must be 5 x 64"):
        load("test_vit", file, Reading(image_size=(64, 64), num_classes=5))


def test_image_size_resamples_as_timm_does(tiny_state, tmp_path):
    file = tmp_path / "tiny.safetensors"
    save_file(tiny_state, file)
    twin = timm.create_model("test_vit", img_size=64, num_classes=7)
    twin.load_state_dict(tiny_state)
    twin.set_input_size((32, 96))
    loaded = load("test_vit", file, Reading(image_size=(32, 96)))
    assert loaded.preprocess.image_size == (32, 96)
    assert_same_logits(loaded, twin.eval())


def test_original_deit3_names_are_understood(tmp_path):
    theirs = timm_model("deit3_small_patch16_224", img_size=64, num_classes=7)
    state = {
        name.replace("ls1.gamma", "gamma_1").replace("ls2.gamma", "gamma_2"): value
        for name, value in theirs.state_dict().items()
    }
    torch.save({"model": state}, tmp_path / "deit3.pth")
    assert_same_logits(
        load("deit3_small_patch16_224", tmp_path / "deit3.pth", Reading(image_size=(64, 64))), theirs
    )


def test_original_dinov2_registers_are_understood(tmp_path):
    name = "vit_small_patch14_reg4_dinov2"
    theirs = timm_model(name, img_size=56)
    state = dict(theirs.state_dict())
    state["register_tokens"] = state.pop("reg_token")
    state["pos_embed"] = torch.cat([torch.full((1, 1, 384), 0.25), state["pos_embed"]], dim=1)
    state["cls_token"] = state["cls_token"] - 0.25
    state["mask_token"] = torch.zeros(1, 384)
    torch.save(state, tmp_path / "dinov2.pth")
    assert_same_logits(load(name, tmp_path / "dinov2.pth", Reading(image_size=(56, 56))), theirs)


class Evil:
    def __reduce__(self):
        return os.system, (f"touch {os.environ['EVIL']}",)


@pytest.mark.parametrize("write", ["zip", "legacy", "pickle", "module"])
def test_code_in_a_checkpoint_is_refused_and_not_run(write, tmp_path, monkeypatch):
    monkeypatch.setenv("EVIL", str(tmp_path / "ran"))
    file = tmp_path / "evil.pth"
    if write == "pickle":
        file.write_bytes(pickle.dumps({"model": Evil()}))
    elif write == "module":
        torch.save(nn.Linear(2, 2), file)
    else:
        torch.save({"model": Evil()}, file, _use_new_zipfile_serialization=write == "zip")
    with pytest.raises(
        ValueError, match=r"evil\.pth is refused because .* run code .* \.safetensors"
    ) as info:
        load_tiny(file)
    assert "\n" not in str(info.value)
    assert not (tmp_path / "ran").exists()


def test_unreadable_weight_files(tiny_state, tmp_path):
    whole = tmp_path / "whole.safetensors"
    save_file(tiny_state, whole)
    pth = tmp_path / "whole.pth"
    torch.save(tiny_state, pth)
    cases = {
        "text.safetensors": (b"these are no weights at all\n", "not a complete safetensors file"),
        "empty.safetensors": (b"", "is empty: copy or download it again"),
        "cut.safetensors": (whole.read_bytes()[:100_000], "not a complete safetensors file"),
        "header.safetensors": (b"\xff" * 64, "not a complete safetensors file"),
        "text.pth": (b"these are no weights at all\n", "not a PyTorch checkpoint"),
        "empty.pth": (b"", "is empty: copy or download it again"),
        "pointer.safetensors": (
            b"version https://git-lfs.github.com/spec/v1\n",
            "fetch them with `git lfs pull`",
        ),
        "page.pth": (b"\n<!DOCTYPE html>", "is a web page or XML, no weights: download the file itself"),
        "w.pth.gz": (gzip.compress(b"x"), "is compressed .*: unpack it"),
        "w.tar": (bytes(257) + b"ustar" + bytes(250), "is an archive .*: unpack it"),
        "w.index.json": (b'{"weight_map": {}}', "of weights in several files give the folder"),
        "w.zip": (None, "zip archive without a PyTorch checkpoint .*: unpack it"),
        "cut.pth": (pth.read_bytes()[:100_000], "cannot be read as a PyTorch checkpoint"),
        "list.pth": (None, "must hold named tensors .* got list"),
        "numbers.pth": (None, "weights must be tensors, 'epoch' is of type int"),
        "weights.npz": (b"PK", "cannot be read as a PyTorch checkpoint"),
    }
    with zipfile.ZipFile(tmp_path / "w.zip", "w") as archive:
        archive.writestr("w.pth", "x")
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    torch.save({"epoch": 3}, tmp_path / "numbers.pth")
    for name, (content, message) in cases.items():
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=message) as info:
            load_tiny(tmp_path / name)
        assert name in str(info.value)
        assert "\n" not in str(info.value)
    with pytest.raises(ValueError, match=r"there is no weights file at .*missing\.pth"):
        load_tiny(tmp_path / "missing.pth")
    with pytest.raises(ValueError, match=r"there is no weights file at .* is a folder: give the file in it"):
        (tmp_path / "folder.pt").mkdir()
        load_tiny(tmp_path / "folder.pt")


def test_torchscript_is_refused(tmp_path):
    with pytest.warns(DeprecationWarning, match="deprecated"):
        torch.jit.script(nn.Linear(2, 2)).save(str(tmp_path / "script.pt"))
    with pytest.raises(ValueError, match="cannot be read as a PyTorch checkpoint"):
        load_tiny(tmp_path / "script.pt")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_must_be_finite(value, tiny_state, tmp_path):
    state = dict(tiny_state) | {"blocks.3.mlp.fc1.bias": tiny_state["blocks.3.mlp.fc1.bias"].clone()}
    state["blocks.3.mlp.fc1.bias"][5] = value
    save_file(state, tmp_path / "nan.safetensors")
    with pytest.raises(
        ValueError, match=r"must be finite, 'blocks\.3\.mlp\.fc1\.bias' has NaN or infinite values"
    ):
        load_tiny(tmp_path / "nan.safetensors")


def test_weights_must_be_floats(tiny_state, tmp_path):
    save_file(tiny_state | {"norm.bias": torch.zeros(64, dtype=torch.int8)}, tmp_path / "int8.safetensors")
    with pytest.raises(ValueError, match=r"must be floats, 'norm\.bias' is torch\.int8"):
        load_tiny(tmp_path / "int8.safetensors")


def test_checkpoints_of_another_architecture(tiny_state, tmp_path):
    file = tmp_path / "other.safetensors"
    save_file(tiny_state, file)
    size = {"image_size": (64, 64)}
    cases: list[tuple[str, dict[str, Any], str]] = [
        (
            "vit_small_patch16_224",
            size,
            r"of 152 .*, 79 with a wrong shape \(first 'cls_token': 1 x 1 x 64, .*, 72 missing \(first",
        ),
        ("vit_small_patch14_reg4_dinov2", {"image_size": (56, 56)}, "patches of 16 x 16 pixels"),
        ("deit_tiny_distilled_patch16_224", size, "does not hold weights for this Vision Transformer"),
        ("vit_base_patch32_224", size, "patches of 16 x 16 pixels, the model needs 32 x 32"),
    ]
    for name, options, message in cases:
        with pytest.raises(ValueError, match=message):
            load(name, file, Reading(**options))
    save_file(
        {"layer1.0.conv1.weight": torch.zeros(64, 64, 3, 3), "bn1.num_batches_tracked": torch.tensor(3)}, file
    )
    with pytest.raises(ValueError, match="none of its 2 tensors is a patch embedding"):
        load_tiny(file)
    save_file({"patch_embed.proj.weight": torch.zeros(5, 7)}, file)
    with pytest.raises(ValueError, match="does not hold weights for this Vision Transformer"):
        load_tiny(file)


def shared_data() -> Path:
    sibling = Path(__file__).resolve().parents[4] / "shared" / "data"
    return Path(os.environ.get("PRUNESCOPE_DATA", sibling))


def test_deit_tiny():
    file = shared_data() / "deit_tiny_patch16_224.safetensors"
    if not file.is_file():
        pytest.skip("needs deit_tiny_patch16_224.safetensors in the folder PRUNESCOPE_DATA")
    loaded = load("deit_tiny_patch16_224", file)
    assert sum(parameter.numel() for parameter in loaded.model.parameters()) == 5_717_416
    assert loaded.preprocess.image_size == (224, 224)
    assert loaded.preprocess.mean == (0.485, 0.456, 0.406)
    assert loaded.preprocess.labels[:2] == ("tench", "goldfish")
    assert len(loaded.preprocess.labels) == 1000


# ---- the hub


@pytest.fixture
def no_network(monkeypatch, tmp_path):
    def refuse(*args, **kwargs):
        raise OSError("no network in tests")

    monkeypatch.setattr(huggingface_hub.get_session(), "head", refuse)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("deit_tiny_patch16_224", r"the weights of deit_tiny_patch16_224 cannot be found .*--weights FILE"),
        (
            "vit_base_patch32_clip_224.openai",
            r"cannot be reached, and the weights of vit_base_patch32_clip_224",
        ),
        ("hf-hub:timm/vit_tiny_patch16_224.augreg_in21k", "the configuration of hf-hub:timm/.* a timm name"),
    ],
)
def test_without_network_one_sentence_comes_at_once(name, message):
    start = time.perf_counter()
    with pytest.raises(ValueError, match=message) as info:
        load(name)
    assert time.perf_counter() - start < 10
    assert "\n" not in str(info.value)
    assert constants.HF_HUB_OFFLINE is False


def test_a_silent_network_is_given_up_in_time(monkeypatch):
    forever = threading.Event()
    monkeypatch.setattr(timm_source, "PROBE_SECONDS", 0.1)
    monkeypatch.setattr(huggingface_hub.get_session(), "head", lambda *args, **kwargs: forever.wait(30))
    assert not timm_source._hub_answers()
    forever.set()


@pytest.fixture
def hub(monkeypatch):
    """A hub that answers and whose weights are given by the test."""
    monkeypatch.setattr(timm_source, "_hub_answers", lambda: True)

    def serve(state):
        def read(model_id, *filename):
            if isinstance(state, Exception):
                raise state
            return state

        monkeypatch.setattr(timm.models, "load_state_dict_from_hf", read)

    return serve


def test_pretrained_weights(hub):
    original = timm_model("test_vit")
    hub(original.state_dict())
    loaded = load("test_vit")
    assert_same_logits(loaded, original)
    assert loaded.source == "hub timm/test_vit.r160_in1k"
    small = load("test_vit", None, Reading(image_size=(64, 96), num_classes=0))
    assert (small.model.arch.image_size, small.model.arch.num_classes) == ((64, 96), 0)
    with pytest.raises(ValueError, match=r"have 1000 classes, not 10; .*--weights FILE"):
        load("test_vit", None, Reading(num_classes=10))


def test_hub_troubles(hub):
    hub(OSError("404 Client Error.\nEntry not found"))
    with pytest.raises(ValueError, match=r"did not provide the weights of test_vit \(404 Client Error\.\)"):
        load("test_vit")
    hub({"norm.weight": torch.tensor([float("nan")])})
    with pytest.raises(ValueError, match="must be finite"):
        load("test_vit")
    with pytest.raises(ValueError, match="no weights for vit_huge_patch14_gap_224 on the hub"):
        load("vit_huge_patch14_gap_224")


def test_a_hub_id(monkeypatch, hub, tmp_path):
    config = {
        "architecture": "vit_tiny_patch16_224",
        "num_classes": 3,
        "label_names": ["a", "b", "c"],
        "model_args": {"img_size": 64},
        "pretrained_cfg": {"input_size": [3, 64, 64], "crop_pct": 1.0},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr("timm.models._hub.download_from_hf", lambda *args, **kwargs: tmp_path / "config.json")
    original = timm_model("vit_tiny_patch16_224", img_size=64, num_classes=3)
    hub(original.state_dict())
    loaded = load("hf-hub:someone/some-vit")
    assert_same_logits(loaded, original)
    assert loaded.preprocess.labels == ("a", "b", "c")
    assert loaded.source == "hub someone/some-vit"
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["ViTForImageClassification"]}))
    with pytest.raises(ValueError, match="does not describe a timm model"):
        load("hf-hub:someone/some-vit")


# ---- bundles

ARCH = Architecture((16, 24), (8, 8), 6, (BlockWidths(2, 3, 2, 5), BlockWidths(1, 1, 4, 7)), 3, scale=0.5)


@pytest.fixture
def bundle(tmp_path):
    folder = tmp_path / "bundle"
    folder.mkdir()
    model = randomise(ViT(ARCH))
    (folder / "architecture.json").write_text(ARCH.to_json())
    (folder / "preprocess.json").write_text(Preprocess((16, 24), labels=("a", "b", "c")).to_json())
    save_file(
        {name: value.half() for name, value in model.state_dict().items()}, folder / "model.safetensors"
    )
    return folder


def test_a_bundle(bundle):
    loaded = load(str(bundle))
    assert loaded.name == str(bundle)
    assert loaded.source == f"bundle {bundle}"
    assert loaded.model.arch == ARCH == architecture(str(bundle))
    assert loaded.preprocess.labels == ("a", "b", "c")
    assert not loaded.model.training
    assert all(parameter.dtype == torch.float32 for parameter in loaded.model.parameters())
    half = randomise(ViT(ARCH)).half().float()
    x = images(ARCH)
    torch.testing.assert_close(loaded.model(x), half(x))


def test_a_bundle_beside_the_caller_is_found_by_its_bare_name(bundle, monkeypatch):
    monkeypatch.chdir(bundle.parent)
    assert load("bundle").model.arch == ARCH
    (bundle.parent / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty is not a bundle: .* architecture\.json is not there"):
        load("empty")
    (bundle.parent / "deit_tiny_patch16_224").mkdir()
    assert architecture("deit_tiny_patch16_224").embed_dim == 192


def test_the_demo_is_a_bundle(bundle, monkeypatch):
    monkeypatch.setattr(sys.modules[load.__module__], "DEMO", bundle)
    loaded = load("demo")
    assert (loaded.name, loaded.source) == ("demo", "embedded demo")
    monkeypatch.setattr(sys.modules[load.__module__], "DEMO", bundle / "nowhere")
    for function in (load, architecture):
        with pytest.raises(ValueError, match="embedded demo model is incomplete"):
            function("demo")


def test_bundles_bring_everything(bundle):
    own = (bundle / "model.safetensors", Reading())
    for given in (own, (None, Reading(image_size=(8, 8))), (None, Reading(num_classes=3))):
        with pytest.raises(ValueError, match="has its own"):
            load(str(bundle), *given)
    with pytest.raises(ValueError, match="has its own"):
        architecture(str(bundle), Reading(num_classes=3))


def test_the_classifier_of_a_bundle_is_left_out(bundle):
    """What is left gives the vectors that the classifier reads."""
    none = Reading(num_classes=0)
    whole, loaded = load(str(bundle)), load(str(bundle), None, none)
    assert (loaded.model.arch.num_classes, loaded.preprocess.labels, loaded.task) == (0, (), "features")
    assert loaded.model.arch == architecture(str(bundle), none)
    assert load_named(Named(str(bundle), None, Reading((32, 32), 0))).model.arch == loaded.model.arch
    x = images(ARCH)
    torch.testing.assert_close(whole.model.head(loaded.model(x)), whole.model(x))
    folder = bundle / "again"  # as often as one likes
    write_bundle(folder, loaded.model, loaded.preprocess, name="again", report={})
    torch.testing.assert_close(load(str(folder), None, none).model(x), loaded.model(x))


@pytest.mark.parametrize("file", ["architecture.json", "preprocess.json", "model.safetensors"])
def test_bundle_files_must_be_there_and_be_whole(file, bundle):
    content = (bundle / file).read_bytes()
    for broken in (b"", b"\xff\xfe\x00", b"{}", b"[1]", content[: len(content) // 2]):
        (bundle / file).write_bytes(broken)
        with pytest.raises(ValueError, match=file) as info:
            read_bundle(bundle)
        assert "\n" not in str(info.value)
    (bundle / file).unlink()
    with pytest.raises(ValueError, match=f"is not a bundle: .* {file} is not there"):
        read_bundle(bundle)


def test_bundle_files_must_fit_each_other(bundle):
    file = bundle / "preprocess.json"
    for preprocess, message in (
        (Preprocess((16, 16)), r"image_size of architecture\.json, \(16, 24\), got \(16, 16\)"),
        (Preprocess((16, 24), labels=("a",)), "all 3 classes or none, got 1 labels"),
    ):
        file.write_text(preprocess.to_json())
        with pytest.raises(ValueError, match=message):
            read_bundle(bundle)


@pytest.mark.parametrize("channels", [1, 4])
def test_images_have_three_channels(channels, bundle):
    arch = json.loads(ARCH.to_json()) | {"in_channels": channels}
    (bundle / "architecture.json").write_text(json.dumps(arch))
    with pytest.raises(ValueError, match=f"in_channels must be 3, as images are read as RGB, got {channels}"):
        read_bundle(bundle)


def test_bundle_weights_must_fit_and_be_finite(bundle):
    state = randomise(ViT(ARCH)).state_dict()
    file = bundle / "model.safetensors"
    save_file(state | {"head.weight": torch.zeros(3, 5)}, file)
    with pytest.raises(
        ValueError, match=r"1 with a wrong shape \(first 'head\.weight': 3 x 5, must be 3 x 6\)"
    ):
        read_bundle(bundle)
    save_file(state | {"head.bias": torch.full((3,), float("nan"))}, file)
    with pytest.raises(ValueError, match=r"'head\.bias' has NaN"):
        read_bundle(bundle)


def test_a_bundle_that_asks_for_the_moon_takes_no_memory(bundle):
    for width, classes, message in (
        (2**12, 2**16, "another architecture"),
        (2**12, 10**9, "num_classes must be at most 65,536"),
        (10**7, 7, "embed_dim must be at most 16,384"),
        (10**30, 7, "embed_dim must be at most 16,384"),
    ):
        moon = json.loads(ARCH.to_json()) | {"embed_dim": width, "num_classes": classes}
        (bundle / "architecture.json").write_text(json.dumps(moon))
        (bundle / "preprocess.json").write_text(Preprocess((16, 24)).to_json())
        with pytest.raises(ValueError, match=message):
            read_bundle(bundle)


def test_shapes_are_compared_before_any_value_is_touched(bundle, monkeypatch):
    def touched(*_):
        raise AssertionError("a value was touched")

    save_file({"head.weight": torch.zeros(3)}, bundle / "model.safetensors")
    monkeypatch.setattr(torch.Tensor, "to", touched)
    monkeypatch.setattr(torch.Tensor, "isfinite", touched)
    with pytest.raises(ValueError, match="another architecture"):
        read_bundle(bundle)


def test_every_field_of_a_bundle_is_held_to_its_type(bundle):
    read = lambda: read_bundle(bundle)
    optional = [field.name for field in fields(Architecture) if field.default is not MISSING]
    size = lambda name: re.sub(r"(_size)\[.\]", r"\1", name)
    assert (
        require_refused(
            bundle / "architecture.json",
            read,
            [f"({'|'.join(optional)}): missing", r"blocks\[.\]\.merge: missing"],
            (),
            size,
        )
        > 150
    )
    fine = ["(interpolation|crop_pct|crop_mode): missing"]
    assert require_refused(bundle / "preprocess.json", read, fine) > 80


def test_bundles_from_before_there_were_versions_are_read(bundle):
    before = read_bundle(bundle)
    for name in ("architecture.json", "preprocess.json"):
        data = json.loads((bundle / name).read_text())
        assert data.pop("version") == {"architecture.json": VERSION, "preprocess.json": 1}[name]
        (bundle / name).write_text(json.dumps(data, indent=2) + "\n")
    assert (read_bundle(bundle).model.arch, read_bundle(bundle).preprocess) == (ARCH, before.preprocess)
    for name in ("preprocess.json", "architecture.json"):
        data = json.loads((bundle / name).read_text()) | {"version": VERSION + 1}
        (bundle / name).write_text(json.dumps(data))
        with pytest.raises(
            ValueError, match=rf"/{name} was written by a later PruneScope \(version {VERSION + 1}; this one"
        ):
            read_bundle(bundle)
