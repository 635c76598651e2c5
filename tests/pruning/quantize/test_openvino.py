"""NNCF's int8 where tokens merge."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

from pruning.export import export_onnx
from pruning.quantize.openvino import openvino_runner, quantize_openvino
from tests.support.models import SHORT, random_images, random_vit


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_what_chooses_and_moves_tokens_stays_in_float(tmp_path: Path) -> None:
    """In int8 a token would be rounded once more wherever others merge, and sizes would not be whole."""
    pytest.importorskip("openvino", reason="OpenVINO is optional")
    pytest.importorskip("nncf", reason="NNCF is optional")
    model, images = random_vit(SHORT), random_images(SHORT, 8)
    source = export_onnx(model, tmp_path / "model.onnx")
    target = quantize_openvino(source, tmp_path / "int8.xml", [images])
    kinds = {one.get("name", ""): one.get("type") for one in ElementTree.parse(target).iter("layer")}
    rounded = {name for name, kind in kinds.items() if kind == "FakeQuantize"}
    assert any("attn" in name for name in rounded) and any("mlp" in name for name in rounded)
    assert any(".merge/MatMul" in name for name, kind in kinds.items() if kind == "MatMul")
    assert not {name for name in rounded if ".merge" in name}
    with torch.inference_mode():
        expected = model(images)
    error = (openvino_runner(target, 1)(images) - expected).square().mean().sqrt() / expected.std()
    assert 0 < float(error) < 0.3
