from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import onnx
import pytest
import torch

from analysis.vit import ViT
from pruning.export import ExportError, export_onnx, onnx_runner
from pruning.quantize.layers import input_spans, linear_layers
from pruning.quantize.onnx import nodes_of, quantize_onnx
from pruning.quantize.simulate import simulated
from tests.support.bundles import PREPROCESS
from tests.support.models import TINY, random_images, random_vit
from tests.support.processor import saturates

IMAGES = random_images(TINY, 16, seed=4)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> tuple[ViT, Path]:
    model = random_vit(replace(TINY, distilled=True))
    return model, export_onnx(model, tmp_path_factory.mktemp("float") / "model.onnx", PREPROCESS)


def weights_of(file: Path) -> list[int]:
    """Types of the constants that a DequantizeLinear reads and that are matrices."""
    graph = onnx.load(file).graph
    constants = {one.name: one for one in graph.initializer}
    read = [node.input[0] for node in graph.node if node.op_type == "DequantizeLinear"]
    return [
        constants[name].data_type for name in read if name in constants and len(constants[name].dims) == 2
    ]


@pytest.mark.skipif(saturates(), reason="this processor cuts sums of int8 products off (x86 without VNNI)")
def test_the_file_computes_what_the_simulation_does(source: tuple[ViT, Path], tmp_path: Path) -> None:
    model, file = source
    target = quantize_onnx(file, tmp_path / "int8.onnx", IMAGES.split(4))
    images = random_images(TINY, 15)
    with torch.inference_mode():
        wanted, plain = simulated(model, input_spans(model, [IMAGES]))(images), model(images)
    got = torch.as_tensor(onnx_runner(target)(images))
    rounding = float((wanted - plain).abs().amax(dim=1).median())
    errors = (got - wanted).abs().amax(dim=1)
    # a value on the border between two bytes may go either way, and takes others with it
    assert float(errors.median()) < rounding / 3 and float(errors.max()) < 3 * rounding


def test_weights_are_signed_bytes_by_channel(source: tuple[ViT, Path], tmp_path: Path) -> None:
    model, file = source
    target = quantize_onnx(file, tmp_path / "int8.onnx", IMAGES.split(4))
    assert weights_of(target) == [onnx.TensorProto.INT8] * len(linear_layers(model))
    assert target.stat().st_size < file.stat().st_size
    before, after = (onnx.load(one) for one in (file, target))
    assert [(one.key, one.value) for one in before.metadata_props] == [
        (one.key, one.value) for one in after.metadata_props if one.key in ("preprocess", "labels")
    ]
    scales = {one.name: one for one in after.graph.initializer}
    for node in after.graph.node:
        if node.op_type == "QuantizeLinear":
            assert scales[node.input[2]].data_type == onnx.TensorProto.UINT8
            assert not scales[node.input[1]].dims


def test_only_the_named_nodes_are_quantised(source: tuple[ViT, Path], tmp_path: Path) -> None:
    model, file = source
    nodes = nodes_of(file, linear_layers(model))
    assert list(nodes) == list(linear_layers(model)) and len(set(nodes.values())) == len(nodes)
    target = quantize_onnx(file, tmp_path / "int8.onnx", [IMAGES], [nodes["head"], nodes["blocks.1.mlp.fc2"]])
    assert len(weights_of(target)) == 2


def test_bad_input(source: tuple[ViT, Path], tmp_path: Path) -> None:
    _, file = source
    with pytest.raises(ValueError, match="there are no calibration images"):
        quantize_onnx(file, tmp_path / "int8.onnx", [])
    with pytest.raises(ExportError, match="has no linear layers that could be quantised"):
        quantize_onnx(file, tmp_path / "int8.onnx", [IMAGES], [])
    with pytest.raises(ExportError, match=r"no product with the weights of blocks\.0\.attn\.qkv"):
        nodes_of(file, linear_layers(random_vit(TINY, seed=9)))
    assert list(tmp_path.iterdir()) == []
