"""Folders as timm writes them for the hub, and what is said of files and folders that are no model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models import save_for_hf

from analysis.models.load import architecture, load

NAME = "test_vit"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    model = timm.create_model(NAME, num_classes=3, img_size=64).eval()
    model.pretrained_cfg["mean"] = (0.1, 0.2, 0.3)
    save_for_hf(
        model, tmp_path / "mine", model_config={"label_names": ["a", "b", "c"]}, safe_serialization="both"
    )
    return tmp_path / "mine"


def changed(folder: Path, **fields: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | fields))


@pytest.mark.parametrize("left_out", ["pytorch_model.bin", "model.safetensors"])
def test_a_folder_of_timm_is_a_model(folder: Path, left_out: str) -> None:
    (folder / left_out).unlink()
    theirs = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    loaded = load(str(folder))
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(loaded.model(images), theirs(images), rtol=1e-4, atol=1e-4)
    assert loaded.preprocess.labels == ("a", "b", "c") and loaded.preprocess.mean == (0.1, 0.2, 0.3)
    assert architecture(str(folder)) == loaded.model.arch


def test_what_its_config_says_otherwise_is_refused(folder: Path) -> None:
    changed(folder, model_args={"class_token": False})
    with pytest.raises(ValueError, match=r"config\.json builds test_vit in another way \(class_token\)"):
        load(str(folder))
    changed(folder, model_args={}, pretrained_cfg={"mean": "red"})
    with pytest.raises(ValueError, match=r"config\.json: its preprocessing cannot be read"):
        load(str(folder))
    changed(folder, architecture="vit_of_tomorrow")
    with pytest.raises(ValueError, match="timm has no model of the architecture 'vit_of_tomorrow'"):
        load(str(folder))
    changed(folder, architecture=NAME)
    for file in ("model.safetensors", "pytorch_model.bin"):
        (folder / file).unlink()
    with pytest.raises(ValueError, match=r"has no weights: it must hold model.safetensors or"):
        load(str(folder))


def test_what_is_given_in_the_place_of_a_model_is_told_from_one(folder: Path) -> None:
    (folder / "config.json").write_text('{"hidden_size": 3}')
    with pytest.raises(ValueError, match=r"config\.json names neither a model_type .* nor an architecture"):
        load(str(folder))
    (folder / "config.json").unlink()
    cases = {
        str(folder): "as the model give its timm name, and .* as its weights",
        str(folder / "model.safetensors"): "is a file: give it as the weights",
        "https://huggingface.co/google/vit-base-patch16-224": "as hf-hub:google/vit-base-patch16-224 and",
    }
    for name, said in cases.items():
        with pytest.raises(ValueError, match=said):
            load(name)


def test_weights_of_another_model_are_told_by_its_name(tmp_path: Path) -> None:
    with torch.device("meta"):
        expected = timm.create_model("deit_tiny_patch16_224").state_dict()
    file = tmp_path / "mine.safetensors"
    save_file({name: torch.zeros(value.shape) for name, value in expected.items()}, file)
    with pytest.raises(
        ValueError, match=r"another architecture.*give what they fit: deit_tiny_patch16_224 or"
    ):
        load("deit_small_patch16_224", file)
