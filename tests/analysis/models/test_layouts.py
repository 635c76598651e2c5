"""Weights written as other tools write them: the logits are those of the model that they were taken from."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torchvision.models import VisionTransformer

from analysis.models import timm_source
from analysis.models.load import LoadedModel, load
from analysis.models.reading import Reading
from tests.support.models import dinov3_names

WIDTH, HEADS, CLASSES, SIZE = 48, 3, 37, 64
SMALL = {"depth": 2, "embed_dim": WIDTH, "num_heads": HEADS}
State = dict[str, Tensor]
save_arrays: Any = np.savez  # whose types know no names of arrays


@pytest.fixture(autouse=True)
def _small_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """timm's names stand for small models in this file."""
    create = timm_source._create
    monkeypatch.setattr(timm_source, "_create", lambda name, **options: create(name, **(SMALL | options)))


def randomised(model: nn.Module) -> Any:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            one = parameter.ndim == 1 and name.endswith(("weight", "gamma", "lambda1"))
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(one + noise * (0.2 if parameter.ndim == 1 else 0.05))
    return model.eval()


def source(name: str, **options: Any) -> Any:
    return randomised(
        timm.create_model(name, **(SMALL | {"img_size": SIZE, "num_classes": CLASSES} | options))
    )


def assert_same(loaded: LoadedModel, theirs: Callable[[Tensor], Tensor], size: int = SIZE) -> None:
    assert loaded.preprocess.image_size == (size, size)
    x = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        expected, got = theirs(x), loaded.model(x)
    assert expected.abs().max() > 0.1 and not torch.allclose(expected[0], expected[1], atol=1e-2)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


def saved(folder: Path, content: Any, name: str = "w.pth") -> Path:
    torch.save(content, folder / name)
    return folder / name


def prefixed(state: State, prefix: str) -> State:
    return {prefix + name: value for name, value in state.items()}


# ---- timm and those that use its names


NESTS: dict[str, Callable[[State], Any]] = {
    "bare": lambda s: s,
    "lightning": lambda s: {
        "state_dict": prefixed(s, "model."),
        "epoch": 3,
        "hyper_parameters": {"lr": 1e-3},
    },
    "stacked": lambda s: {"checkpoint": {"net": {"w": prefixed(s, "module._orig_mod.backbone.")}}},
    "model and optimizer": lambda s: (s, {"lr": 0.1}),
    "compiled blocks": lambda s: {n.replace("blocks.1.", "blocks.1._orig_mod."): v for n, v in s.items()},
    "encoder": lambda s: {"model": prefixed(s, "encoder.") | {"projector.0.weight": torch.ones(3, 48)}},
    "optimizer": lambda s: {
        "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 0.1}]},
        "network_fn": s,
        "args": argparse.Namespace(lr=0.1),
    },
}


@pytest.mark.parametrize("nest", NESTS.values(), ids=NESTS)
def test_any_nesting_and_prefix(nest: Callable[[State], Any], tmp_path: Path) -> None:
    theirs = source("vit_small_patch16_224")
    loaded = load("vit_small_patch16_224", saved(tmp_path, nest(theirs.state_dict())))
    assert loaded.model.arch.num_classes == CLASSES and loaded.preprocess.labels == ()
    assert_same(loaded, theirs)
    assert loaded.notes == ("its position embedding is for images of 64 x 64 pixels",) or "left out" in str(
        loaded.notes
    )


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".ckpt", ".pth.tar", ".npz", ""])
def test_the_content_decides_not_the_suffix(suffix: str, tmp_path: Path) -> None:
    theirs = source("vit_small_patch16_224")
    save_file(prefixed(theirs.state_dict(), "backbone."), tmp_path / f"a{suffix}")
    assert_same(load("vit_small_patch16_224", tmp_path / f"a{suffix}"), theirs)
    for legacy in (True, False):
        file = tmp_path / f"b{suffix}"
        torch.save(theirs.state_dict(), file, _use_new_zipfile_serialization=not legacy)
        assert_same(load("vit_small_patch16_224", file), theirs)


AVERAGES: dict[str, tuple[Callable[[State, State], Any], str]] = {
    "timm": (lambda s, ema: {"state_dict": s, "state_dict_ema": ema}, "state_dict_ema"),
    "deit": (lambda s, ema: {"model": s, "model_ema": ema}, "model_ema"),
    "dino": (
        lambda s, ema: {
            "student": prefixed(s, "module.backbone.") | {"module.head.mlp.0.weight": torch.ones(8, WIDTH)},
            "teacher": prefixed(ema, "backbone.") | {"head.mlp.0.weight": torch.ones(8, WIDTH)},
            "optimizer": {"state": {}, "param_groups": []},
            "dino_loss": {"center": torch.zeros(1, 8)},
        },
        "teacher.backbone",
    ),
    "moco": (
        lambda s, ema: {
            "arch": "vit_small",
            "state_dict": prefixed(s, "module.base_encoder.") | prefixed(ema, "module.momentum_encoder."),
        },
        "state_dict.module.momentum_encoder",
    ),
    "lightning": (
        lambda s, ema: {"state_dict": prefixed(s, "model.") | prefixed(ema, "ema_model.module.")},
        "state_dict.ema_model.module",
    ),
    "one inside the other": (lambda s, ema: s | prefixed(ema, "ema."), "ema"),
}


@pytest.mark.parametrize(("nest", "where"), AVERAGES.values(), ids=AVERAGES)
def test_of_several_the_average_is_taken_and_told(nest: Any, where: str, tmp_path: Path) -> None:
    theirs = source("vit_small_patch16_224")
    other = {name: value + 0.1 for name, value in theirs.state_dict().items()}
    loaded = load("vit_small_patch16_224", saved(tmp_path, nest(other, theirs.state_dict())))
    assert_same(loaded, theirs)
    assert loaded.notes[0].startswith(f"of the weights in w.pth, those at {where} are used, not those at ")


def test_an_average_that_does_not_fit_is_not_taken(tmp_path: Path) -> None:
    theirs = source("vit_small_patch16_224")
    larger = source("vit_small_patch16_224", embed_dim=96)
    file = saved(tmp_path, {"teacher": larger.state_dict(), "student": theirs.state_dict()})
    loaded = load("vit_small_patch16_224", file)
    assert_same(loaded, theirs)
    assert "those at student are used, not those at teacher" in loaded.notes[0]


def test_original_mae(tmp_path: Path) -> None:
    theirs = source("vit_base_patch16_224", num_classes=0)
    decoder = {"mask_token": torch.zeros(1, 1, 8), "decoder_pos_embed": torch.zeros(1, 17, 8)}
    decoder |= prefixed(
        {"norm1.weight": torch.ones(8), "attn.qkv.weight": torch.ones(24, 8)}, "decoder_blocks.0."
    )
    decoder |= {"decoder_embed.weight": torch.ones(8, WIDTH), "decoder_pred.bias": torch.ones(768)}
    loaded = load("vit_base_patch16_224", saved(tmp_path, {"model": theirs.state_dict() | decoder}))
    assert_same(loaded, theirs)
    assert loaded.model.arch.num_classes == 0
    assert "w.pth has no classifier: the model is loaded without one" in loaded.notes
    assert any("left out: decoder_blocks, decoder_embed" in note for note in loaded.notes)


def test_fine_tuned_mae_averages_patches(tmp_path: Path) -> None:
    theirs = source("vit_base_patch16_224", global_pool="avg")
    assert "fc_norm.weight" in theirs.state_dict()
    loaded = load("vit_base_patch16_224", saved(tmp_path, {"model": theirs.state_dict(), "epoch": 99}))
    assert loaded.model.arch.pool == "avg" and not loaded.model.arch.norm_before_pool
    assert_same(loaded, theirs)


def test_moco_with_its_projection_is_headless(tmp_path: Path) -> None:
    theirs = source("vit_small_patch16_224", num_classes=0)
    head = {"head.0.weight": torch.ones(64, WIDTH), "head.1.running_mean": torch.zeros(64)}
    state = prefixed(theirs.state_dict() | head, "module.base_encoder.")
    loaded = load("vit_small_patch16_224", saved(tmp_path, {"state_dict": state}))
    assert_same(loaded, theirs)
    assert "its classifier is not one linear layer on the pooled features: it is left out" in loaded.notes


def test_a_linear_layer_beside_a_backbone_is_its_classifier(tmp_path: Path) -> None:
    theirs = source("vit_small_patch16_224")
    state = theirs.state_dict()
    content = {
        f"{'' if name.startswith('head.') else 'backbone.'}{name}": value for name, value in state.items()
    }
    content = {name.replace("head.", "fc."): value for name, value in content.items()}
    loaded = load("vit_small_patch16_224", saved(tmp_path, {"state_dict": prefixed(content, "module.")}))
    assert_same(loaded, theirs)
    assert "its classifier is the layer fc, beside the backbone" in loaded.notes
    assert (
        load("vit_small_patch16_224", saved(tmp_path, content), Reading(num_classes=0)).model.arch.num_classes
        == 0
    )


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("registers", [False, True])
def test_original_dinov2(registers: bool, chunked: bool, tmp_path: Path) -> None:
    name = f"vit_small_patch14_{'reg4_' if registers else ''}dinov2"
    theirs = source(name, img_size=56, num_classes=0)
    state = dict(theirs.state_dict())
    if registers:
        state["register_tokens"] = state.pop("reg_token")
        state["pos_embed"] = torch.cat([torch.full((1, 1, WIDTH), 0.25), state["pos_embed"]], dim=1)
        state["cls_token"] = state["cls_token"] - 0.25
    state["mask_token"] = torch.zeros(1, WIDTH)
    content: Any = state
    if chunked:  # as a training saves it: two blocks to a chunk, each named by its number in the model
        content = {
            "teacher": prefixed({n.replace("blocks.", "blocks.0."): v for n, v in state.items()}, "backbone.")
        }
        content["teacher"] |= {"dino_head.mlp.0.weight": torch.ones(8, WIDTH)}
    loaded = load(name, saved(tmp_path, content))
    assert_same(loaded, theirs, 56)
    assert loaded.model.arch.registers == (4 if registers else 0)


# ---- CLIP


def clip_names(state: State) -> State:
    """What open_clip and OpenAI call the tensors of timm's model of CLIP, name by name."""
    out = {
        "class_embedding": state["cls_token"][0, 0],
        "positional_embedding": state["pos_embed"][0],
        "conv1.weight": state["patch_embed.proj.weight"],
        "proj": state["head.weight"].T.contiguous(),
    }
    for end in ("weight", "bias"):
        out |= {f"ln_pre.{end}": state[f"norm_pre.{end}"], f"ln_post.{end}": state[f"norm.{end}"]}
        for block in range(SMALL["depth"]):
            ours, theirs = f"blocks.{block}.", f"transformer.resblocks.{block}."
            for mine, other in (
                (f"norm1.{end}", f"ln_1.{end}"),
                (f"norm2.{end}", f"ln_2.{end}"),
                (f"attn.qkv.{end}", f"attn.in_proj_{end}"),
                (f"attn.proj.{end}", f"attn.out_proj.{end}"),
                (f"mlp.fc1.{end}", f"mlp.c_fc.{end}"),
                (f"mlp.fc2.{end}", f"mlp.c_proj.{end}"),
            ):
                out[theirs + other] = state[ours + mine]
    return out


CLIPS: dict[str, Callable[[State], Any]] = {
    "visual alone": lambda s: s,
    "whole model": lambda s: (
        prefixed(s, "visual.")
        | {
            "logit_scale": torch.tensor(4.6),
            "positional_embedding": torch.zeros(77, 32),
            "text_projection": torch.zeros(32, 37),
            "transformer.resblocks.0.ln_1.weight": torch.zeros(32),
        }
    ),
    "training": lambda s: {"epoch": 1, "name": "a", "state_dict": prefixed(s, "module.visual.")},
}


@pytest.mark.parametrize("nest", CLIPS.values(), ids=CLIPS)
@pytest.mark.parametrize("name", ["vit_base_patch32_clip_224", "vit_base_patch32_clip_quickgelu_224"])
def test_clip(name: str, nest: Callable[[State], Any], tmp_path: Path) -> None:
    theirs = source(name)
    with torch.no_grad():
        theirs.head.bias.zero_()
    assert "patch_embed.proj.bias" not in theirs.state_dict()
    loaded = load(name, saved(tmp_path, nest(clip_names(theirs.state_dict()))))
    assert loaded.model.arch.num_classes == CLASSES and loaded.model.arch.pre_norm
    assert_same(loaded, theirs)


def test_clip_with_timms_trunk(tmp_path: Path) -> None:
    theirs = source("vit_base_patch32_clip_224")
    with torch.no_grad():
        theirs.head.bias.zero_()
    state = {n: v for n, v in theirs.state_dict().items() if not n.startswith("head.")}
    content = prefixed(state, "visual.trunk.") | {"visual.head.proj.weight": theirs.head.weight.detach()}
    assert_same(load("vit_base_patch32_clip_224", saved(tmp_path, content)), theirs)


# ---- torchvision


def torchvision_model(**options: Any) -> Any:
    return randomised(
        VisionTransformer(
            image_size=SIZE,
            patch_size=16,
            num_layers=2,
            num_heads=HEADS,
            hidden_dim=WIDTH,
            mlp_dim=4 * WIDTH,
            num_classes=CLASSES,
            **options,
        )
    )


@pytest.mark.parametrize("older", [False, True])
def test_torchvision(older: bool, tmp_path: Path) -> None:
    theirs = torchvision_model()
    state = theirs.state_dict()
    if older:  # the layers of the MLP had names until version 0.12
        state = {
            n.replace("mlp.0.", "mlp.linear_1.").replace("mlp.3.", "mlp.linear_2."): v
            for n, v in state.items()
        }
    loaded = load("vit_base_patch16_224", saved(tmp_path, {"model": state, "epoch": 1}))
    assert_same(loaded, theirs)
    assert "the names of the weights are those of torchvision" in loaded.notes


def test_a_classifier_behind_a_hidden_layer_is_left_out(tmp_path: Path) -> None:
    theirs = torchvision_model(representation_size=24)
    loaded = load("vit_base_patch16_224", saved(tmp_path, theirs.state_dict()))
    theirs.heads = nn.Identity()
    assert_same(loaded, theirs)
    assert any("hidden layer" in note for note in loaded.notes)


# ---- Hugging Face


def hugging_face(kind: str, config: str, **options: Any) -> Any:
    own = {
        "hidden_size": WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": HEADS,
        "intermediate_size": 4 * WIDTH,
        "image_size": SIZE,
        "patch_size": 16,
        "num_labels": CLASSES,
    }
    return randomised(getattr(transformers, kind)(getattr(transformers, config)(**(own | options))))


HUGGING_FACE: dict[str, tuple[str, str, str, dict[str, Any], Callable[[Any], Tensor]]] = {
    "vit": ("vit_base_patch16_224", "ViTForImageClassification", "ViTConfig", {}, lambda out: out.logits),
    "vit backbone": (
        "vit_base_patch16_224",
        "ViTModel",
        "ViTConfig",
        {},
        lambda out: out.last_hidden_state[:, 0],
    ),
    "deit": (
        "deit_tiny_distilled_patch16_224",
        "DeiTForImageClassificationWithTeacher",
        "DeiTConfig",
        {},
        lambda out: out.logits,
    ),
    "dinov2": (
        "vit_small_patch14_dinov2",
        "Dinov2Model",
        "Dinov2Config",
        {"mlp_ratio": 4, "patch_size": 14, "image_size": 56},
        lambda out: out.pooler_output,
    ),
    "dinov2 with classifier of two features": (
        "vit_small_patch14_reg4_dinov2",
        "Dinov2WithRegistersForImageClassification",
        "Dinov2WithRegistersConfig",
        {"mlp_ratio": 4, "patch_size": 14, "image_size": 56},
        lambda out: out.hidden_states[-1],
    ),
    "clip": (
        "vit_base_patch16_clip_quickgelu_224",
        "CLIPVisionModelWithProjection",
        "CLIPVisionConfig",
        {"projection_dim": CLASSES},
        lambda out: out.image_embeds,
    ),
}


@pytest.mark.parametrize("file", ["state_dict", "saved", "bin"])
@pytest.mark.parametrize("layout", HUGGING_FACE)
def test_hugging_face(layout: str, file: str, tmp_path: Path) -> None:
    name, kind, config, options, read = HUGGING_FACE[layout]
    theirs = hugging_face(kind, config, **options)
    path = tmp_path / "model.safetensors"
    theirs.save_pretrained(tmp_path)
    if file == "state_dict":
        path = saved(tmp_path, theirs.state_dict())
    elif file == "bin":
        path = saved(tmp_path, load_file(path), "pytorch_model.bin")
    loaded = load(name, path)

    def forward(x: Tensor) -> Tensor:
        if layout.startswith("dinov2 with"):
            return theirs.dinov2_with_registers(x).pooler_output
        return read(theirs(x))

    assert_same(loaded, forward, options.get("image_size", SIZE))
    assert loaded.model.arch.num_classes == (0 if "backbone" in layout or "dinov2" in layout else CLASSES)


def test_hugging_face_mae_without_its_decoder(tmp_path: Path) -> None:
    theirs = hugging_face(
        "ViTMAEForPreTraining",
        "ViTMAEConfig",
        mask_ratio=0.0,
        decoder_num_hidden_layers=1,
        decoder_hidden_size=16,
        decoder_num_attention_heads=2,
        decoder_intermediate_size=16,
    )
    loaded = load("vit_base_patch16_224", saved(tmp_path, theirs.state_dict()))
    assert_same(loaded, lambda x: theirs.vit(x).last_hidden_state[:, 0])


# ---- JAX


def jax_arrays(state: State) -> dict[str, np.ndarray]:
    """The arrays that the original ViT saves, from timm's tensors, written from its layers' forms."""
    arrays = {name: value.numpy() for name, value in state.items()}
    out = {
        "embedding/kernel": arrays["patch_embed.proj.weight"].transpose(2, 3, 1, 0),
        "embedding/bias": arrays["patch_embed.proj.bias"],
        "cls": arrays["cls_token"],
        "Transformer/posembed_input/pos_embedding": arrays["pos_embed"],
        "Transformer/encoder_norm/scale": arrays["norm.weight"],
        "Transformer/encoder_norm/bias": arrays["norm.bias"],
    }
    if "head.weight" in arrays:
        out |= {"head/kernel": arrays["head.weight"].T, "head/bias": arrays["head.bias"]}
    for block in range(SMALL["depth"]):
        ours, theirs = f"blocks.{block}.", f"Transformer/encoderblock_{block}/"
        attention = f"{theirs}MultiHeadDotProductAttention_1/"
        weights = arrays[f"{ours}attn.qkv.weight"].reshape(3, HEADS, 16, WIDTH)
        biases = arrays[f"{ours}attn.qkv.bias"].reshape(3, HEADS, 16)
        for index, part in enumerate(("query", "key", "value")):
            out[f"{attention}{part}/kernel"] = weights[index].transpose(2, 0, 1)
            out[f"{attention}{part}/bias"] = biases[index]
        out[f"{attention}out/kernel"] = arrays[f"{ours}attn.proj.weight"].T.reshape(HEADS, 16, WIDTH)
        out[f"{attention}out/bias"] = arrays[f"{ours}attn.proj.bias"]
        for mine, other in (("norm1", "LayerNorm_0"), ("norm2", "LayerNorm_2")):
            out[f"{theirs}{other}/scale"] = arrays[f"{ours}{mine}.weight"]
            out[f"{theirs}{other}/bias"] = arrays[f"{ours}{mine}.bias"]
        for mine, other in (("mlp.fc1", "Dense_0"), ("mlp.fc2", "Dense_1")):
            out[f"{theirs}MlpBlock_3/{other}/kernel"] = arrays[f"{ours}{mine}.weight"].T
            out[f"{theirs}MlpBlock_3/{other}/bias"] = arrays[f"{ours}{mine}.bias"]
    return out


def test_jax(tmp_path: Path) -> None:
    theirs = source("vit_base_patch16_224")
    file = tmp_path / "B_16.npz"
    save_arrays(file, **jax_arrays(theirs.state_dict()))
    twin = timm.create_model("vit_base_patch16_224", **SMALL, img_size=SIZE, num_classes=CLASSES)
    twin.load_pretrained(str(file))
    loaded = load("vit_base_patch16_224", file)
    assert_same(loaded, twin.eval())
    assert loaded.model.arch.num_classes == CLASSES


def test_jax_with_prefix_stacked_blocks_and_half_floats(tmp_path: Path) -> None:
    theirs = source("vit_base_patch16_224")
    arrays = jax_arrays(theirs.state_dict())
    stacked = {name: value for name, value in arrays.items() if "encoderblock_" not in name}
    for name, value in arrays.items():
        if "encoderblock_0/" in name:
            other = arrays[name.replace("encoderblock_0/", "encoderblock_1/")]
            stacked[name.replace("encoderblock_0/", "encoderblock/")] = np.stack([value, other])
    file = tmp_path / "big_vision"  # np.savez would add a suffix to a name
    with file.open("wb") as stream:
        save_arrays(stream, **{f"opt/target/{name}": value.astype(">f8") for name, value in stacked.items()})
    assert_same(load("vit_base_patch16_224", file), theirs)


def test_a_jax_classifier_behind_a_hidden_layer(tmp_path: Path) -> None:
    theirs = source("vit_base_patch16_224", num_classes=0)
    hidden = {"pre_logits/kernel": np.zeros((WIDTH, WIDTH), np.float32), "head/kernel": np.zeros((WIDTH, 9))}
    save_arrays(tmp_path / "w.npz", **jax_arrays(theirs.state_dict()), **hidden)
    loaded = load("vit_base_patch16_224", tmp_path / "w.npz")
    assert_same(loaded, theirs)
    assert any("hidden layer" in note for note in loaded.notes)


# ---- what is read off the shapes, and what is refused


@pytest.fixture
def plain(tmp_path: Path) -> Iterator[tuple[Any, Path]]:
    theirs = source("vit_small_patch16_224")
    yield theirs, saved(tmp_path, theirs.state_dict())


def test_what_the_user_gives_is_kept(plain: tuple[Any, Path]) -> None:
    theirs, file = plain
    loaded = load("vit_small_patch16_224", file, Reading(image_size=(96, 64)))
    assert loaded.preprocess.image_size == (96, 64) and loaded.model.arch.num_classes == CLASSES
    theirs.set_input_size((96, 64))
    x = torch.randn(2, 3, 96, 64)
    with torch.inference_mode():
        torch.testing.assert_close(loaded.model(x), theirs(x), rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match=r"'head\.weight': 37 x 48, must be 5 x 48"):
        load("vit_small_patch16_224", file, Reading(num_classes=5))


def test_a_file_without_classifier_has_no_number_of_classes(tmp_path: Path) -> None:
    file = saved(tmp_path, source("vit_small_patch16_224", num_classes=0).state_dict())
    with pytest.raises(ValueError, match=r"w\.pth has no classifier, so the number of classes cannot be 5"):
        load("vit_small_patch16_224", file, Reading(num_classes=5))


def test_a_grid_that_is_not_square_must_be_given(tmp_path: Path) -> None:
    theirs = source("vit_small_patch16_224", img_size=(32, 96))
    file = saved(tmp_path, theirs.state_dict())
    with pytest.raises(ValueError, match=r"for 13 tokens, the model has 197: .* image_size must be set"):
        load("vit_small_patch16_224", file)
    assert load("vit_small_patch16_224", file, Reading(image_size=(32, 96))).preprocess.image_size == (32, 96)


@pytest.mark.parametrize("channels", [1, 4])
def test_images_have_three_channels(channels: int, tmp_path: Path) -> None:
    file = saved(tmp_path, source("vit_small_patch16_224", in_chans=channels).state_dict())
    with pytest.raises(ValueError, match=f"images of {channels} channels; images are read as RGB"):
        load("vit_small_patch16_224", file)


def test_parts_that_a_plain_model_lacks_are_refused(tmp_path: Path) -> None:
    state = source("vit_small_patch16_224", qk_norm=True).state_dict()
    with pytest.raises(ValueError, match=r"unknown \(first 'blocks\.0\.attn\.q_norm"):
        load("vit_small_patch16_224", saved(tmp_path, {"ema": prefixed(state, "model.")}))


@pytest.mark.parametrize("layout", ["timm", "CLIP", "JAX"])
def test_odd_shapes_are_refused(layout: str, tmp_path: Path) -> None:
    state = source("vit_base_patch32_clip_224" if layout == "CLIP" else "vit_base_patch16_224").state_dict()
    if layout == "JAX":
        content = {n: torch.from_numpy(v.copy()) for n, v in jax_arrays(state).items()}
    else:
        content = clip_names(state) if layout == "CLIP" else dict(state)
    name = "vit_base_patch32_clip_224" if layout == "CLIP" else "vit_base_patch16_224"
    for key in [key for key in content if "blocks.1" not in key and "block_1" not in key]:
        for odd in (torch.tensor(1.0), torch.ones(3, 1, 2)):
            file = saved(tmp_path, content | {key: odd})
            with pytest.raises(ValueError, match=r"^[^\n]{10,500}$"):
                loaded = load(name, file)
                assert "left out" in str(loaded.notes)
                raise ValueError("a classifier that is left out")


def test_what_is_no_vision_transformer_or_not_merged_is_refused_by_name(tmp_path: Path) -> None:
    state = source("vit_small_patch16_224").state_dict()
    adapted = {name.replace(".qkv.", ".qkv.base_layer."): value for name, value in state.items()}
    adapted["blocks.0.attn.qkv.lora_A.default.weight"] = torch.ones(4, 48)
    cases = {
        r"none of its 1 tensors is a patch embedding .*'conv1\.weight'": {"conv1.weight": torch.ones(3, 3)},
        r"holds a LoRA adapter: merge it .*merge_and_unload": prefixed(adapted, "base_model.model."),
    }
    for said, content in cases.items():
        with pytest.raises(ValueError, match=said):
            load("vit_small_patch16_224", saved(tmp_path, content))


def test_places_for_a_model_that_has_none(tmp_path: Path) -> None:
    """DINOv3 knows places by its rotary positions alone."""
    file = saved(tmp_path, source("vit_small_patch16_224").state_dict())
    with pytest.raises(ValueError, match="holds the weights of another architecture"):
        load("vit_small_patch16_dinov3", file)


def test_dinov3_in_its_own_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "vit_small_patch16_dinov3"
    plain, biased = (source(f"{name}{end}", num_classes=0, img_size=256) for end in ("", "_qkvb"))
    file = saved(tmp_path, dinov3_names(biased.state_dict()))
    assert_same(load(f"{name}_qkvb", file), biased, 256)
    with pytest.raises(ValueError, match="take the one that ends in _qkvb"):
        load(name, file)
    state = plain.state_dict()
    zero = {f"blocks.{block}.attn.{end}_bias": torch.zeros(WIDTH) for block in range(2) for end in "qv"}
    assert_same(load(name, saved(tmp_path, dinov3_names(state | zero))), plain, 256)
    assert not capsys.readouterr().out  # which is for JSON
