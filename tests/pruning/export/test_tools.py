"""Other tools open our files and compute what the model computes: quantisers, compilers, other runtimes.

A tool whose wheel is large is no requirement of the tests: they are skipped where it is missing.
"""

from __future__ import annotations

import copy
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from analysis.vit import Architecture, ViT
from pruning.export import export_onnx, export_pt2, onnx_runner
from tests.support.bundles import PREPROCESS, prune
from tests.support.models import SHORT, TINY, random_images, random_vit

KINDS: dict[str, Architecture] = {
    "pruned": TINY,
    "distilled": replace(TINY, distilled=True, skip_unread=True),
    "registers": replace(TINY, registers=2, layer_scale=True, pool="avg", norm_before_pool=False),
    "merging": SHORT,
}


def model_of(kind: str) -> ViT:
    model = random_vit(KINDS[kind])
    return model if model.arch is SHORT else prune(model)[0]


@dataclass(frozen=True)
class Exported:
    """A model and its files."""

    model: ViT
    onnx: Path
    pt2: Path

    def images(self, count: int) -> Tensor:
        return random_images(self.model.arch, count)

    def logits(self, images: Tensor) -> Tensor:
        with torch.inference_mode():
            return self.model(images).clone()


@pytest.fixture(scope="module", params=list(KINDS))
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Exported once: that takes seconds."""
    folder = tmp_path_factory.mktemp(request.param)
    model = model_of(request.param)
    return Exported(
        model,
        export_onnx(model, folder / "model.onnx", PREPROCESS),
        export_pt2(model, folder / "model.pt2", PREPROCESS),
    )


def close(got: Any, expected: Tensor) -> None:
    torch.testing.assert_close(torch.as_tensor(got), expected, atol=1e-4, rtol=1e-3)


def near(got: Any, expected: Tensor, share: float) -> None:
    """Whether quantised logits err by at most `share` of the spread of the right ones, but do differ."""
    error = (torch.as_tensor(got) - expected).abs().max() / expected.std()
    assert 0 < float(error) < share, float(error)


# Weights of 7 bits (`reduce_range`): with 8, sums of two products saturate on x86 processors without VNNI.


@pytest.mark.filterwarnings("ignore")
def test_onnx_runtime_quantises_dynamically(exported: Exported, tmp_path: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    target = tmp_path / "int8.onnx"
    quantize_dynamic(exported.onnx, target, per_channel=True, weight_type=QuantType.QInt8, reduce_range=True)
    operators = [node.op_type for node in onnx.load(target).graph.node]
    halves = sum(bool(block.heads) + bool(block.mlp) for block in exported.model.arch.blocks)
    assert operators.count("MatMulInteger") >= 2 * halves
    for count in (1, 3):
        near(onnx_runner(target, 1)(exported.images(count)), exported.logits(exported.images(count)), 0.4)


@pytest.mark.filterwarnings("ignore")
def test_onnx_runtime_quantises_the_linear_layers_statically(exported: Exported, tmp_path: Path) -> None:
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

    class Images(CalibrationDataReader):
        left: Iterator[dict[str, np.ndarray]] = iter([{"images": exported.images(8).numpy()}])

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.left, None)

    layers = [name for name, module in exported.model.named_modules() if isinstance(module, nn.Linear)]
    quantize_static(
        exported.onnx,
        tmp_path / "int8.onnx",
        Images(),
        nodes_to_quantize=layers,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        reduce_range=True,
    )
    graph = onnx.load(tmp_path / "int8.onnx").graph
    in_int8 = [node for node in graph.node if node.op_type == "Gemm" and node.name in layers]
    assert len(in_int8) >= len(layers) - exported.model.arch.skip_unread
    assert all(node.input[1].endswith("_DequantizeLinear_Output") for node in in_int8)
    images = exported.images(3)
    near(onnx_runner(tmp_path / "int8.onnx", 1)(images), exported.logits(images), 0.4)


def test_onnxslim_reads_it_and_finds_nothing_to_remove(exported: Exported) -> None:
    onnxslim = pytest.importorskip("onnxslim")
    before = onnx.load(exported.onnx)
    slim = onnxslim.slim(copy.deepcopy(before))
    target = exported.onnx.with_name("slim.onnx")
    onnx.save(slim, target)
    close(onnx_runner(target, 1)(exported.images(3)), exported.logits(exported.images(3)))
    merging = sum(bool(block.merge) for block in exported.model.arch.blocks)  # what is computed of shapes
    assert len(slim.graph.node) >= len(before.graph.node) - 6 - 20 * merging


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("format", ["onnx", "pt2"])
def test_openvino_reads_onnx_and_pt2(exported: Exported, format: str) -> None:
    openvino = pytest.importorskip("openvino", reason="openvino is 59 MB, so it is not required")
    source = exported.onnx if format == "onnx" else torch.export.load(exported.pt2)
    compiled = openvino.compile_model(
        openvino.convert_model(source), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    for count in (1, 3):
        close(compiled([exported.images(count).numpy()])[0], exported.logits(exported.images(count)))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_aot_inductor_compiles_the_pt2(exported: Exported, tmp_path: Path) -> None:
    if not any(map(shutil.which, ("g++", "clang++", "c++"))):
        pytest.skip("AOTInductor needs a C++ compiler")
    if not exported.model.arch.merges:
        pytest.skip("the model that merges leaves tokens out, too, and each takes 20 s")
    program = torch.export.load(exported.pt2)
    package = torch._inductor.aoti_compile_and_package(program, package_path=str(tmp_path / "compiled.pt2"))
    compiled = torch._inductor.aoti_load_package(package)
    for count in (1, 3):
        close(compiled(exported.images(count)).detach(), exported.logits(exported.images(count)))


@pytest.mark.filterwarnings("ignore")
def test_torchao_quantises_the_model_that_a_bundle_loads(exported: Exported) -> None:
    torchao = pytest.importorskip("torchao.quantization")
    model = copy.deepcopy(exported.model)
    torchao.quantize_(model, torchao.Int8DynamicActivationInt8WeightConfig())
    assert all(
        "Int8" in type(layer.weight).__name__ for layer in model.modules() if isinstance(layer, nn.Linear)
    )
    with torch.inference_mode():
        near(model(exported.images(3)), exported.logits(exported.images(3)), 0.4)


@pytest.mark.filterwarnings("ignore")
def test_torch_quantises_the_model_that_a_bundle_loads(exported: Exported) -> None:
    if not {"x86", "fbgemm", "qnnpack", "onednn"} & set(torch.backends.quantized.supported_engines):
        pytest.skip("this torch has no quantised kernels")
    model = torch.ao.quantization.quantize_dynamic(exported.model, {nn.Linear}, dtype=torch.qint8)
    assert not any(type(module) is nn.Linear for module in model.modules())
    with torch.inference_mode():
        near(model(exported.images(3)), exported.logits(exported.images(3)), 0.4)


NCNN = """
import sys, numpy, ncnn
images = numpy.load("images.npy")
net = ncnn.Net()
net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
net.opt.use_bf16_storage = False
net.load_param("model.ncnn.param")
net.load_model("model.ncnn.bin")
found = []
for image in images:
    extractor = net.create_extractor()
    extractor.input("in0", ncnn.Mat(image).clone())
    found.append(numpy.array(extractor.extract("out0")[1]))
numpy.save("logits.npy", numpy.stack(found))
"""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("source", ["traced", "onnx"])
def test_pnnx_reads_other_files(exported: Exported, tmp_path: Path, source: str) -> None:
    """The model that a bundle loads, traced, and the ONNX file.

    Where tokens merge the traced model is left out, as it sorts, which ncnn cannot; the ONNX file does not.
    """
    pytest.importorskip("ncnn", reason="ncnn is for phones and boards, so it is not required")
    pnnx = shutil.which("pnnx") or shutil.which("pnnx", path=Path(sys.executable).parent)
    if not pnnx:
        pytest.skip("pnnx is 29 MB, so it is not required")
    arch, one = exported.model.arch, exported.images(1)
    if arch.merges and source == "traced":
        pytest.skip("ncnn cannot sort: the formats onnx and ncnn merge without")
    if source == "onnx":
        shutil.copy(exported.onnx, tmp_path / "model.onnx")
    else:
        torch.jit.trace(exported.model, one).save(tmp_path / "model.pt")
    words = [f"model.{'onnx' if source == 'onnx' else 'pt'}", f"inputshape={[*one.shape]}".replace(" ", "")]
    subprocess.run([pnnx, *words, "fp16=0"], cwd=tmp_path, check=True)
    np.save(tmp_path / "images.npy", exported.images(2).numpy())
    subprocess.run([sys.executable, "-c", NCNN], cwd=tmp_path, check=True)
    close(np.load(tmp_path / "logits.npy"), exported.logits(exported.images(2)))
