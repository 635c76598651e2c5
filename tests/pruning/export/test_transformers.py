"""Folders that transformers loads, in one process for all tests that cannot import this project."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageOps
from safetensors.torch import load_file, save_file

from analysis.data.images import read_image
from analysis.models import timm_source
from analysis.models.load import LoadedModel, architecture, load, read_bundle
from analysis.models.preprocess import Preprocess
from analysis.vit import Architecture, BlockWidths, ViT
from pruning.bundle.write import zip_bundle
from pruning.export import export_formats
from tests.support.bundles import ISOLATION, PREPROCESS, prune
from tests.support.models import TINY, random_images, random_vit

needs_transformers = pytest.mark.skipif(
    find_spec("transformers") is None, reason="transformers is not installed"
)
MODELS: dict[str, tuple[Architecture, Preprocess, str]] = {
    "classes": (TINY, PREPROCESS, "float32"),
    "half": (replace(TINY, distilled=True, skip_unread=True), replace(PREPROCESS, labels=()), "float16"),
    "average": (
        replace(TINY, pool="avg", norm_before_pool=False, registers=2, layer_scale=True),
        replace(PREPROCESS, crop_mode="squash", interpolation="bilinear", mean=(0.4, 0.5, 0.6)),
        "float32",
    ),
    "border": (TINY, replace(PREPROCESS, crop_mode="border", crop_pct=1.0), "float32"),
    "square": (
        replace(TINY, image_size=(16, 16)),
        replace(PREPROCESS, image_size=(16, 16), crop_pct=0.875),
        "float32",
    ),
    "merging": (
        replace(
            TINY,
            image_size=(32, 32),
            blocks=(BlockWidths(3, 8, 8, 32, 3), BlockWidths(0, 0, 0, 32), BlockWidths(3, 8, 8, 0)),
        ),
        replace(PREPROCESS, image_size=(32, 32)),
        "float32",
    ),
    "no head": (replace(TINY, num_classes=0), replace(PREPROCESS, labels=()), "float32"),
}
SIZES = ((40, 30), (31, 57), (16, 24), (200, 99), (7, 9))

INSIDE = """
import json
import torch
from pathlib import Path
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageClassification

torch.set_num_threads(1)
trusted = {"trust_remote_code": True}
told, found = {}, {}
for name, images in load_file("images.safetensors").items():
    config = AutoConfig.from_pretrained(name, **trusted)
    assert config.model_type == "prunescope"
    backbone, report = AutoModel.from_pretrained(name, output_loading_info=True, **trusted)
    told[f"{name} backbone"] = sorted(report["missing_keys"]) + sorted(report["unexpected_keys"])
    with torch.inference_mode():
        out = backbone.eval()(pixel_values=images)
    found[f"{name} tokens"], found[f"{name} pooled"] = out.last_hidden_state, out.pooler_output
    model, report = AutoModelForImageClassification.from_pretrained(
        name, output_loading_info=True, **trusted
    )
    told[name] = sorted(report["missing_keys"]) + sorted(report["unexpected_keys"])
    told[f"{name} labels"] = [model.config.id2label[index] for index in range(model.config.num_labels)]
    told[f"{name} dtype"] = str(model.dtype)
    with torch.inference_mode():
        found[f"{name} logits"] = model.eval()(images).logits
    processor = AutoImageProcessor.from_pretrained(name, **trusted)
    plain = AutoImageProcessor.from_pretrained(name)
    told[f"{name} processors"] = [type(processor).__name__, type(plain).__name__]
    for photo in sorted(Path("photos").iterdir()):
        found[f"{name} {photo.name}"] = processor(Image.open(photo), return_tensors="pt")["pixel_values"]
        found[f"{name} near {photo.name}"] = plain(Image.open(photo), return_tensors="pt")["pixel_values"]

# on from here, as with any model: another head, a step of training, saved and read again
model, report = AutoModelForImageClassification.from_pretrained(
    "classes", num_labels=3, ignore_mismatched_sizes=True, output_loading_info=True, **trusted
)
told["new head"] = sorted(str(key[0]) for key in report["mismatched_keys"])
images = load_file("images.safetensors")["classes"]
out = model(images, labels=torch.arange(len(images)) % 3)
out.loss.backward()
assert all(parameter.grad is not None for parameter in model.parameters())
found["new logits"] = out.logits.detach()
model.save_pretrained("saved")
processor.save_pretrained("saved")
again = AutoModelForImageClassification.from_pretrained("saved", **trusted).eval()
with torch.inference_mode():
    found["again logits"] = again(images).logits
AutoImageProcessor.from_pretrained("saved", **trusted)
save_file({name: value.contiguous() for name, value in found.items()}, "found.safetensors")
Path("told.json").write_text(json.dumps(told))
"""


def model_of(name: str) -> ViT:
    arch, _, dtype = MODELS[name]
    model = random_vit(arch) if name in ("border", "merging") else prune(random_vit(arch))[0]
    return model.half().float() if dtype == "float16" else model


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of each model, photos, and images for the models."""
    place = tmp_path_factory.mktemp("transformers")
    images = {}
    for name, (arch, preprocess, dtype) in MODELS.items():
        model = model_of(name)
        loaded = LoadedModel(model, preprocess, "demo", "test")
        written = export_formats(loaded, ["transformers"], place / name, dtype=dtype)
        assert written == {"transformers": place / name}
        images[name] = random_images(arch, 3)
    save_file(images, place / "images.safetensors")
    (place / "photos").mkdir()
    noise = torch.Generator().manual_seed(1)
    for width, height in SIZES:
        pixels = torch.randint(
            0, 256, (height // 3 + 1, width // 3 + 1, 3), generator=noise, dtype=torch.uint8
        )
        photo = Image.fromarray(pixels.numpy()).resize((width, height))
        photo.save(place / "photos" / f"{width}.png")
    photo.convert("RGBA").save(place / "photos" / "alpha.png")
    turned = ImageOps.grayscale(photo)
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(place / "photos" / "turned.png", exif=exif)
    return place


@pytest.fixture(scope="module")
def loaded(
    place: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, object], dict[str, torch.Tensor]]:
    """What transformers made of the folders."""
    own = {"HF_HOME": str(tmp_path_factory.mktemp("home")), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-I", "-W", "ignore", "-c", ISOLATION + INSIDE],
        cwd=place,
        env=os.environ | own,
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    return json.loads((place / "told.json").read_text()), load_file(place / "found.safetensors")


@needs_transformers
@pytest.mark.parametrize("name", [name for name in MODELS if name != "no head"])
def test_transformers_gives_our_logits_and_labels(name: str, place: Path, loaded) -> None:
    told, found = loaded
    arch, preprocess, _ = MODELS[name]
    images = random_images(arch, 3)
    with torch.inference_mode():
        expected = model_of(name)(images)
    torch.testing.assert_close(found[f"{name} logits"], expected, atol=1e-6, rtol=1e-6)
    assert told[name] == told[f"{name} backbone"] == []
    assert told[f"{name} labels"] == list(preprocess.labels or (f"LABEL_{i}" for i in range(10)))
    assert told[f"{name} dtype"] == "torch.float32"


@needs_transformers
@pytest.mark.parametrize("name", MODELS)
def test_the_model_without_its_head_gives_tokens_and_features(name: str, loaded) -> None:
    """The twin: the same network with no classes and all tokens computed. Every patch has a token."""
    told, found = loaded
    model = model_of(name)
    twin = ViT(replace(model.arch, num_classes=0, skip_unread=False)).eval()
    twin.load_state_dict({key: value for key, value in model.state_dict().items() if "head" not in key})
    images = random_images(model.arch, 3)
    with torch.inference_mode():
        pooled, tokens = twin(images), twin.forward_features(images)
    torch.testing.assert_close(found[f"{name} pooled"], pooled, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found[f"{name} tokens"], tokens, atol=1e-5, rtol=1e-5)
    assert found[f"{name} tokens"].shape[1] == model.arch.num_tokens
    if name == "no head":
        assert told[name] == ["vit.head.bias", "vit.head.weight"]  # a new one, to be trained


@needs_transformers
@pytest.mark.parametrize("name", MODELS)
def test_its_image_processor_gives_our_pixels(name: str, place: Path, loaded) -> None:
    told, found = loaded
    assert told[f"{name} processors"][0] == "PruneScopeImageProcessor"
    for photo in (place / "photos").iterdir():
        expected = MODELS[name][1](read_image(photo))[None]
        torch.testing.assert_close(found[f"{name} {photo.name}"], expected, atol=1e-6, rtol=0)


@needs_transformers
def test_transformers_own_processor_comes_near_where_no_code_is_trusted(place: Path, loaded) -> None:
    """Square images and an even margin: equal. Else a row or column beside; only `border` has no likeness."""
    told, found = loaded
    for name in ("square", "average"):
        assert told[f"{name} processors"][1].startswith("CLIPImageProcessor")
        expected = MODELS[name][1](read_image(place / "photos" / "40.png"))[None]
        near = found[f"{name} near 40.png"]
        assert near.shape == expected.shape
    torch.testing.assert_close(near, expected, atol=1e-5, rtol=0)


@needs_transformers
def test_it_is_trained_further_and_saved_as_any_model(loaded) -> None:
    told, found = loaded
    assert told["new head"] == ["vit.head.bias", "vit.head.weight"]
    assert found["new logits"].shape == (3, 3)
    torch.testing.assert_close(found["again logits"], found["new logits"], atol=1e-5, rtol=1e-5)


def test_the_folder_is_a_bundle_too(place: Path) -> None:
    """Needs no transformers: neither to be written, nor to be read here."""
    for name, (_, preprocess, dtype) in MODELS.items():
        found = read_bundle(place / name)
        assert found.preprocess == preprocess and found.half == (dtype == "float16")
        for key, value in model_of(name).state_dict().items():
            assert torch.equal(found.model.state_dict()[key], value), key
    assert load(str(place / "classes")).source == f"bundle {place / 'classes'}"
    packed = zip_bundle(place / "classes")
    for file in ("config.json", "modeling_prunescope.py", "vit.py", "preprocessor_config.json"):
        assert f"classes/{file}".encode() in packed


def test_a_folder_that_was_pushed_is_read_from_the_hub(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(repository: str, file: str) -> str:
        assert repository == "me/smaller"
        return str(place / "half" / file)

    monkeypatch.setattr("timm.models._hub.download_from_hf", download)
    monkeypatch.setattr(timm_source, "_hub_answers", lambda: True)
    found = load("hf-hub:me/smaller")
    assert found.name == "hf-hub:me/smaller" and found.half
    assert found.model.arch == architecture("hf-hub:me/smaller") == model_of("half").arch
    (place / "lost").mkdir()
    (place / "lost" / "config.json").write_bytes((place / "half" / "config.json").read_bytes())
    with pytest.raises(ValueError, match=r"the files of the bundle .* are gone"):
        load(str(place / "lost"))


def test_the_files_know_nothing_of_this_project(place: Path) -> None:
    for file in (place / "classes").glob("*.py"):
        text = file.read_text(encoding="utf-8")
        assert "from analysis" not in text and "from pruning" not in text, file
    card = (place / "classes" / "README.md").read_text(encoding="utf-8")
    assert "library_name: transformers" in card and "trust_remote_code=True" in card
    assert "AutoModel.from_pretrained" in (place / "no head" / "README.md").read_text(encoding="utf-8")


def test_with_other_formats_in_one_folder(tmp_path: Path) -> None:
    made = LoadedModel(random_vit(TINY), PREPROCESS, "demo", "test")
    files = export_formats(made, ["bundle", "transformers"], tmp_path / "both")
    assert files == {"bundle": tmp_path / "both", "transformers": tmp_path / "both"}
    export_formats(made, ["bundle"], tmp_path / "both", overwrite=True)
    assert not (tmp_path / "both" / "config.json").exists()
    with pytest.raises(ValueError, match="already contains"):
        export_formats(made, ["transformers"], tmp_path / "both")
