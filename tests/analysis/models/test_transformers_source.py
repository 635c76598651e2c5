"""Every class that is read gives what transformers itself gives, from files that transformers wrote."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file

from analysis.models import timm_source
from analysis.models.huggingface.source import load_transformers
from analysis.models.load import UnsupportedModelError, architecture, load
from analysis.models.reading import Reading
from tests.support.models import ROOT

transformers: Any = pytest.importorskip("transformers")

WIDTHS = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "image_size": 32,
    "patch_size": 8,
}
CLASSES = WIDTHS | {"num_labels": 5}
TEXT = {
    "hidden_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "vocab_size": 20,
}
DECODER = {
    "decoder_hidden_size": 16,
    "decoder_num_hidden_layers": 1,
    "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 16,
}


def made(name: str, config: Any) -> Any:
    """A model in which every parameter matters: none is zero or one by initialisation."""
    model = getattr(transformers, name)(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            gain = parameter.ndim == 1 and parameter_name.endswith(("weight", "lambda1"))
            parameter.copy_(gain + noise * (0.3 if parameter.ndim == 1 else 0.2))
    return model.eval()


def of(config: str, **options: Any) -> Any:
    return getattr(transformers, config)(**options)


def siglip_config(cls: str = "SiglipVisionConfig", **options: Any) -> Any:
    config = of(cls, **WIDTHS, **options)
    config.vision_use_head = False
    return config


def two_towers(config: str, **options: Any) -> Any:
    return of(config, vision_config=WIDTHS, text_config=TEXT, **options)


def logits(model: Any, images: torch.Tensor) -> torch.Tensor:
    return model(images).logits


def class_feature(model: Any, images: torch.Tensor) -> torch.Tensor:
    return model(images).last_hidden_state[:, 0]


def mean_feature(model: Any, images: torch.Tensor) -> torch.Tensor:
    return model(images).last_hidden_state.mean(dim=1)


def pooled(model: Any, images: torch.Tensor) -> torch.Tensor:
    return model(images).pooler_output


def embedding(model: Any, images: torch.Tensor) -> torch.Tensor:
    return model(images).image_embeds


def image_features(model: Any, images: torch.Tensor) -> torch.Tensor:
    return model.visual_projection(model.vision_model(images).pooler_output)


def unmasked(model: Any, images: torch.Tensor) -> torch.Tensor:
    encoder = getattr(model, "vit", model)
    encoder.config.mask_ratio = 0.0
    return encoder(images).last_hidden_state[:, 0]


SUPPORTED = {
    "ViTForImageClassification": (lambda: of("ViTConfig", **CLASSES), logits),
    "ViTModel": (lambda: of("ViTConfig", **WIDTHS), class_feature),
    "ViTForMaskedImageModeling": (
        lambda: of("ViTConfig", **WIDTHS, encoder_stride=8),
        lambda model, images: class_feature(model.vit, images),
    ),
    "ViTForImageClassification, other options": (
        lambda: of(
            "ViTConfig", **CLASSES, qkv_bias=False, hidden_act="gelu_pytorch_tanh", layer_norm_eps=1e-3
        ),
        logits,
    ),
    "ViTForImageClassification, not square": (
        lambda: of("ViTConfig", **(CLASSES | {"image_size": [32, 48], "patch_size": [8, 16]})),
        logits,
    ),
    "DeiTForImageClassification": (lambda: of("DeiTConfig", **CLASSES), logits),
    "DeiTForImageClassificationWithTeacher": (lambda: of("DeiTConfig", **CLASSES), logits),
    "DeiTModel": (lambda: of("DeiTConfig", **WIDTHS), class_feature),
    "Dinov2Model": (lambda: of("Dinov2Config", **WIDTHS, mlp_ratio=2), pooled),
    "Dinov2WithRegistersModel": (lambda: of("Dinov2WithRegistersConfig", **WIDTHS, mlp_ratio=2), pooled),
    "CLIPVisionModel": (lambda: of("CLIPVisionConfig", **WIDTHS), pooled),
    "CLIPVisionModelWithProjection": (lambda: of("CLIPVisionConfig", **WIDTHS, projection_dim=12), embedding),
    "CLIPModel": (lambda: two_towers("CLIPConfig", projection_dim=14), image_features),
    "SiglipVisionModel": (siglip_config, mean_feature),
    "SiglipForImageClassification": (lambda: two_towers("SiglipConfig", num_labels=5), logits),
    "ViTMAEModel": (lambda: of("ViTMAEConfig", **WIDTHS), unmasked),
    "ViTMAEForPreTraining": (lambda: of("ViTMAEConfig", **WIDTHS, **DECODER), unmasked),
    "ViTMSNModel": (lambda: of("ViTMSNConfig", **WIDTHS), class_feature),
    "ViTMSNForImageClassification": (lambda: of("ViTMSNConfig", **CLASSES), logits),
    "Dinov2ForImageClassification": (lambda: of("Dinov2Config", **CLASSES), logits),
    "Dinov2WithRegistersForImageClassification": (
        lambda: of("Dinov2WithRegistersConfig", **CLASSES, use_swiglu_ffn=True),
        logits,
    ),
    "CLIPForImageClassification": (lambda: two_towers("CLIPConfig", num_labels=5), logits),
    "SiglipVisionModel, with its head": (lambda: of("SiglipVisionConfig", **WIDTHS), pooled),
    "SiglipModel": (
        lambda: two_towers("SiglipConfig"),
        lambda model, images: model.vision_model(images).pooler_output,
    ),
    "DINOv3ViTModel": (lambda: of("DINOv3ViTConfig", **WIDTHS, num_register_tokens=2), pooled),
    "DINOv3ViTModel, gated": (
        lambda: of(
            "DINOv3ViTConfig",
            **(WIDTHS | {"image_size": [32, 48]}),
            use_gated_mlp=True,
            hidden_act="silu",
            rope_theta=50.0,
        ),
        pooled,
    ),
    "BeitModel": (lambda: of("BeitConfig", **WIDTHS, use_relative_position_bias=True), pooled),
    "BeitForImageClassification": (
        lambda: of("BeitConfig", **CLASSES, use_shared_relative_position_bias=True, use_mean_pooling=False),
        logits,
    ),
    "BeitForImageClassification, with positions": (
        lambda: of(
            "BeitConfig", **CLASSES, use_absolute_position_embeddings=True, layer_scale_init_value=0.0
        ),
        logits,
    ),
    "Data2VecVisionForImageClassification": (
        lambda: of("Data2VecVisionConfig", **CLASSES, use_relative_position_bias=True),
        logits,
    ),
    "IJepaModel": (lambda: of("IJepaConfig", **WIDTHS), mean_feature),
    "IJepaForImageClassification": (lambda: of("IJepaConfig", **CLASSES), logits),
}


def saved(case: str, folder: Path, **options: Any) -> Any:
    model = made(case.partition(",")[0], SUPPORTED[case][0]())
    model.save_pretrained(folder, **options)
    return model


def require_same(case: str, folder: Path, theirs: Any) -> None:
    ours = load(str(folder)).model
    images = torch.randn(2, 3, *ours.arch.image_size, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        expected, got = SUPPORTED[case][1](theirs, images), ours(images)
    assert expected.std() > 1e-2
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
    assert architecture(str(folder)) == ours.arch


@pytest.mark.parametrize("case", SUPPORTED)
def test_outputs_are_those_of_transformers(case, tmp_path):
    require_same(case, tmp_path, saved(case, tmp_path))


@pytest.mark.parametrize("case", SUPPORTED)
def test_names_in_memory_are_read_as_well_as_those_in_files(case, tmp_path):
    theirs = saved(case, tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(theirs.state_dict(), tmp_path / "pytorch_model.bin")
    require_same(case, tmp_path, theirs)


# ---- files


def test_several_files_with_an_index(tmp_path):
    case = "ViTForImageClassification"
    theirs = saved(case, tmp_path, max_shard_size="10KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    require_same(case, tmp_path, theirs)
    last = sorted(tmp_path.glob("model-*.safetensors"))[-1]
    shutil.copy(last, tmp_path / "kept")
    last.unlink()
    with pytest.raises(ValueError, match=f"incomplete: .*names {last.name}, which is not there"):
        load(str(tmp_path))
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    for name in ("../kept.safetensors", "/etc/passwd", "model.bin", ""):
        index["weight_map"]["vit.layernorm.weight"] = name
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
        with pytest.raises(ValueError, match=r"must name \.safetensors files beside it"):
            load(str(tmp_path))
    for broken in ("{}", '{"weight_map": []}', '{"weight_map": {"a": 1}}'):
        (tmp_path / "model.safetensors.index.json").write_text(broken)
        with pytest.raises(ValueError, match="`weight_map` must name the file"):
            load(str(tmp_path))


def test_a_checkpoint_of_a_training(tmp_path):
    case = "ViTForImageClassification"
    folder = tmp_path / "checkpoint-500"
    theirs = saved(case, folder)
    torch.save({"state": {0: {"exp_avg": torch.ones(3)}}}, folder / "optimizer.pt")
    (folder / "trainer_state.json").write_text('{"global_step": 500}')
    require_same(case, folder, theirs)
    shutil.copytree(folder, tmp_path / "checkpoint-1000")
    with pytest.raises(ValueError, match=r"checkpoints of a training: give one .*checkpoint-1000$"):
        load(str(tmp_path))


def test_half_precision_is_read_as_float32(tmp_path):
    theirs = made("ViTForImageClassification", of("ViTConfig", **CLASSES)).to(torch.bfloat16)
    theirs.save_pretrained(tmp_path)
    assert {p.dtype for p in load(str(tmp_path)).model.parameters()} == {torch.float32}
    require_same("ViTForImageClassification", tmp_path, theirs.float())


def test_options(tmp_path):
    saved("ViTForImageClassification", tmp_path)
    with pytest.raises(ValueError, match="has its own weights"):
        load(str(tmp_path), tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="has 5 classes, not 7"):
        load(str(tmp_path), None, Reading(num_classes=7))
    headless = load(str(tmp_path), None, Reading(num_classes=0))
    assert headless.model.arch.num_classes == 0
    assert "the classifier left out" in headless.source
    theirs = transformers.ViTForImageClassification.from_pretrained(tmp_path).eval()
    ours = load(str(tmp_path), None, Reading(image_size=(48, 40)))
    images = torch.randn(2, 3, 48, 40, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        expected = theirs(images, interpolate_pos_encoding=True).logits
        torch.testing.assert_close(ours.model(images), expected, rtol=1e-4, atol=1e-4)
    assert ours.preprocess.image_size == (48, 40)


@pytest.mark.parametrize("name", ["Dinov2Model", "Dinov2WithRegistersModel"])
def test_dinov2_takes_the_size_of_its_processor(name, tmp_path):
    theirs = saved(name, tmp_path)
    transformers.BitImageProcessorPil(size={"shortest_edge": 64}, crop_size=56).save_pretrained(tmp_path)
    loaded = load(str(tmp_path))
    assert loaded.model.arch.image_size == (56, 56) == loaded.preprocess.image_size
    assert "position embedding is resampled for images of 56 x 56" in loaded.source
    require_same(name, tmp_path, theirs)


def test_what_is_left_out_is_told(tmp_path):
    saved("ViTModel", tmp_path / "vit")
    assert "the pooler left out" in load(str(tmp_path / "vit")).source
    saved("CLIPModel", tmp_path / "clip")
    assert "the text tower left out; the projection" in load(str(tmp_path / "clip")).source
    saved("ViTMAEForPreTraining", tmp_path / "mae")
    assert "the decoder left out" in load(str(tmp_path / "mae")).source
    saved("SiglipForImageClassification", tmp_path / "siglip")
    assert "the attention pooling left out" in load(str(tmp_path / "siglip")).source


def test_class_names(tmp_path):
    config = of("ViTConfig", **WIDTHS, id2label={i: f"kind {i}" for i in range(12)})
    made("ViTForImageClassification", config).save_pretrained(tmp_path / "named")
    assert load(str(tmp_path / "named")).preprocess.labels == tuple(f"kind {i}" for i in range(12))
    saved("ViTForImageClassification", tmp_path / "unnamed")
    assert load(str(tmp_path / "unnamed")).preprocess.labels == ()


# ---- refusals

REFUSED = {
    "Siglip2VisionModel": (
        lambda: of("Siglip2VisionConfig", **{k: v for k, v in WIDTHS.items() if k != "image_size"}),
        "varying length",
    ),
    "ViTMSNModel, other class": (lambda: of("ViTMSNConfig", **WIDTHS), "class Other is none of ViTMSNModel"),
    "SwinModel": (
        lambda: of("SwinConfig", image_size=32, patch_size=4, embed_dim=12, depths=[1], num_heads=[2]),
        "windowed attention",
    ),
    "ResNetModel": (lambda: of("ResNetConfig"), "convolutional"),
    "BertModel": (lambda: of("BertConfig", **TEXT), "model_type 'bert' is none of vit, deit"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals_name_the_reason(case, tmp_path):
    config, reason = REFUSED[case]
    found = config().to_dict()
    name, _, other = case.partition(", ")
    found["architectures"] = ["Other" if other else name]
    (tmp_path / "config.json").write_text(json.dumps(found))
    for read in (load, architecture):
        with pytest.raises(
            UnsupportedModelError, match=f"^{tmp_path} is not supported: .*{reason}.*"
        ) as info:
            read(str(tmp_path))
        assert "\n" not in str(info.value)


@pytest.mark.parametrize(
    "case", ["Dinov2ForImageClassification", "Dinov2WithRegistersForImageClassification"]
)
def test_without_its_classifier_dinov2_is_read(case, tmp_path):
    theirs = made(case, SUPPORTED[case][0]())
    theirs.save_pretrained(tmp_path)
    ours = load(str(tmp_path), None, Reading(num_classes=0)).model
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        expected = theirs.base_model(images).pooler_output
        torch.testing.assert_close(ours(images), expected, rtol=1e-4, atol=1e-4)


def test_code_that_it_brings_is_not_run(tmp_path):
    case = "ViTForImageClassification"
    theirs = saved(case, tmp_path)
    (tmp_path / "modeling.py").write_text("raise SystemExit('run')")
    edit(tmp_path, auto_map={"AutoModel": "modeling.Model"})
    require_same(case, tmp_path, theirs)
    assert "code that it brings (auto_map) is not run" in load(str(tmp_path)).source
    edit(tmp_path, model_type="internvit")
    with pytest.raises(
        UnsupportedModelError, match=r"'internvit' is none of .*auto_map`\), which is not run"
    ):
        load(str(tmp_path))


def test_an_adapter_alone(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match="adapter only: merge it"):
        load(str(tmp_path))


# ---- damaged files


def edit(folder: Path, name: str = "config.json", **fields: Any) -> None:
    found = json.loads((folder / name).read_text()) | fields
    (folder / name).write_text(json.dumps(found))


@pytest.fixture(scope="module")
def vit_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vit")
    saved("ViTForImageClassification", folder)
    transformers.ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hidden_size": "24"}, "`hidden_size` must be a whole number"),
        ({"hidden_size": 10**30}, "`hidden_size` must be a whole number"),
        ({"hidden_size": 25}, "`hidden_size` must be a multiple of `num_attention_heads`"),
        ({"hidden_size": 3 * 2**20}, "block width 'qk' must be at most"),
        ({"hidden_size": 48}, "holds the weights of another architecture|position embedding"),
        ({"num_hidden_layers": -1}, "`num_hidden_layers` must be a whole number from 1"),
        ({"num_hidden_layers": 10**6}, "`num_hidden_layers` must be a whole number from 1 to 256"),
        ({"num_hidden_layers": 3}, "holds the weights of another architecture.* missing"),
        ({"num_attention_heads": 0}, "`num_attention_heads` must be a whole number from 1"),
        ({"num_attention_heads": True}, "`num_attention_heads` must be a whole number from 1"),
        ({"intermediate_size": [40]}, "`intermediate_size` must be a whole number"),
        ({"image_size": [32, 32, 32]}, "`image_size` must be one or two positive"),
        ({"image_size": {"height": 32}}, "`image_size` must be one or two positive"),
        ({"image_size": 10**6}, "image_size must be at most"),
        ({"image_size": 40}, "position embedding for 17 tokens, config.json describes 26"),
        ({"patch_size": 0}, "`patch_size` must be one or two positive"),
        ({"patch_size": 64}, "image_size must be a whole number of at least 64"),
        ({"num_channels": 1}, "`num_channels` must be 3, as images are read as RGB, got 1"),
        ({"layer_norm_eps": float("nan")}, "`layer_norm_eps` must be a positive number"),
        ({"layer_norm_eps": 7}, "norm_eps must be from"),
        ({"hidden_act": "relu"}, "`hidden_act` must be one of gelu, .*'relu'"),
        ({"hidden_act": 3}, "`hidden_act` must be text"),
        ({"qkv_bias": "yes"}, "`qkv_bias` must be true or false"),
        ({"qkv_bias": False}, "holds the weights of another architecture.*unknown"),
        ({"architectures": "ViT"}, "`architectures` must be a list of names"),
        ({"architectures": [3]}, "`architectures` must be a list of names"),
        ({"model_type": ["vit"]}, "`model_type` must be text"),
        ({"id2label": ["a"]}, "`id2label` must map"),
        ({"id2label": {"0": "a", "2": "b"}}, "name for each class from 0 on, `1` has none"),
        ({"id2label": {"0": "a", "1": 3}}, "name for each class from 0 on, `1` has none"),
        ({"id2label": {"0": "a", "1": "b"}}, "holds the weights of another architecture.*head"),
        ({"head_dim": 16}, "holds the weights of another architecture"),
    ],
)
def test_damaged_configs_end_in_one_sentence(fields, message, vit_folder, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(vit_folder, folder)
    edit(folder, **fields)
    with pytest.raises(ValueError, match=message) as info:
        load(str(folder))
    assert "\n" not in str(info.value)
    assert len(str(info.value)) < 500
    assert str(folder) in str(info.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "config.json is not JSON"),
        (b"[]", r"config.json must be a JSON object, got \[\]"),
        (b"\xff\xfe", "config.json is not UTF-8"),
        (b'{"model_type": "vit", "model_type": "deit"}', "`model_type` stands twice"),
        (b"[" * 100_000, "config.json"),
    ],
)
def test_a_config_that_is_no_json(content, message, vit_folder, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(vit_folder, folder)
    (folder / "config.json").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load(str(folder))


def test_damaged_weights(vit_folder, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(vit_folder, folder)
    file = folder / "model.safetensors"
    state = load_file(file)
    damaged = {
        "shape": ("vit.encoder.layer.0.attention.attention.key.weight", torch.ones(12, 24), "same shape"),
        "nan": ("vit.layernorm.weight", torch.full((24,), float("nan")), "must be finite"),
        "unknown": ("vit.extra", torch.ones(3), r"1 unknown \(first 'extra'\)"),
        "positions": ("vit.embeddings.position_embeddings", torch.ones(3), "position embedding for 0 tokens"),
        "scalar": ("vit.embeddings.position_embeddings", torch.tensor(1.0), "position embedding"),
        "scalars": (
            "vit.encoder.layer.0.attention.attention.key.bias",
            torch.tensor(1.0),
            "must have the same shape",
        ),
    }
    for name, value, message in damaged.values():
        save_file(state | {name: value}, file)
        with pytest.raises(ValueError, match=message):
            load(str(folder))
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ValueError, match="not a complete safetensors file"):
        load(str(folder))
    file.unlink()
    with pytest.raises(ValueError, match=r"has no weights: it must hold model\.safetensors or"):
        load(str(folder))


# ---- the hub


@pytest.fixture
def hub(monkeypatch, vit_folder):
    """A hub whose one repository is that folder; the names of files asked for."""
    asked: list[tuple[str, str]] = []

    def download(repository: str, file: str, **options: Any) -> str:
        asked.append((repository, file))
        if not (vit_folder / file).is_file():
            raise huggingface_hub.errors.LocalEntryNotFoundError(f"no {file}")
        return str(vit_folder / file)

    monkeypatch.setattr("timm.models._hub.download_from_hf", download)
    monkeypatch.setattr(timm_source, "_hub_answers", lambda: True)
    return asked


def test_a_hub_id_of_a_transformers_model(hub, vit_folder):
    loaded, local = load("hf-hub:someone/vit@main"), load(str(vit_folder))
    images = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(loaded.model(images), local.model(images), rtol=0, atol=0)
    assert loaded.preprocess == local.preprocess
    assert (loaded.name, loaded.source) == (
        "hf-hub:someone/vit@main",
        "transformers ViTForImageClassification hf-hub:someone/vit@main",
    )
    assert ("someone/vit@main", "model.safetensors") in hub
    hub.clear()
    assert architecture("hf-hub:someone/vit") == local.model.arch
    assert "model.safetensors" not in {file for _, file in hub}


def test_the_cache_of_the_hub_may_be_closed(hub, monkeypatch, tmp_path):
    monkeypatch.setenv("PRUNESCOPE_ONLY", str(tmp_path / "other"))
    with pytest.raises(ValueError, match="hub's cache, and that folder may not be opened here"):
        load("hf-hub:someone/vit")


# ---- the command line


def command(*words: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "pruning", *words, "--json"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_commands(tmp_path):
    config = of("ViTConfig", **(WIDTHS | {"image_size": 64}), num_labels=10)
    made("ViTForImageClassification", config).save_pretrained(tmp_path / "dense")
    transformers.ViTImageProcessorPil(size={"height": 64, "width": 64}).save_pretrained(tmp_path / "dense")
    dense, small = str(tmp_path / "dense"), tmp_path / "small"
    found = command(
        *("prune", "--model", dense, "--data", "demo", "--method", "snp", "--limit", "8"),
        *("--qk", "0.5", "--mlp", "0.25", "--classes-file", "sorted", "--out", str(small)),
    )
    assert found["params_after"] < found["params_before"]
    assert load(str(small)).model.arch.blocks[0].qk == 4
    command("export", "--model", dense, "--format", "bundle", "--out", str(tmp_path / "bundle"))
    bundle = load(next(str(file.parent) for file in (tmp_path / "bundle").rglob("architecture.json")))
    ours = load(dense)
    assert bundle.preprocess == ours.preprocess
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(bundle.model(images), ours.model(images), rtol=1e-4, atol=1e-4)


def test_transformers_is_not_imported(vit_folder):
    code = (
        "import sys; from analysis.models import load; load(sys.argv[1]); "
        "assert 'transformers' not in sys.modules, 'imported'"
    )
    subprocess.run([sys.executable, "-c", code, str(vit_folder)], check=True, cwd=ROOT)


def test_the_source_is_one_line(vit_folder):
    source = load_transformers(vit_folder, "name", None, None)[2]
    assert re.fullmatch(r"transformers ViTForImageClassification name", source)
