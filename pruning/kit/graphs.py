"""ONNX files of models and blocks with random weights, which all lie in one small file.

Times do not depend on weights. So the large tensors of all files are the same bytes of `weights.bin`,
each from its beginning, and a kit takes as much room as the largest matrix and the graphs.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from analysis.vit import Attention, Block, ViT
from pruning.export import ExportError
from pruning.kit.layout import Entry

WEIGHTS = "weights.bin"
INPUT, OUTPUT = "images", "logits"
_OPERATORS = ("MatMul", "Gemm")


class _Alone(nn.Module):
    """A block by itself: B N E -> B N E."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x)


class Graphs:
    """Writes ONNX files into one folder inside a `with`, and at its end the weights they share."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._most = folder, 0
        self._float: dict[tuple[object, ...], Path] = {}  # an entry in int8 is made of the one in float

    def __enter__(self) -> Graphs:
        self._place = tempfile.TemporaryDirectory()
        return self

    def __exit__(self, kind: type | None, error: object, trace: object) -> None:
        self._place.cleanup()
        if kind is None:
            count = -(-self._most // 4)
            values = np.float32(0.02) * np.random.default_rng(0).standard_normal(count, dtype=np.float32)
            (self._folder / WEIGHTS).write_bytes(values.tobytes())

    def write(self, entry: Entry, file: str) -> None:
        """Write a model or a block.

        Raises:
            ExportError: torch gives no program.
            OSError: it could not be written.
        """
        import onnx

        place = Path(self._place.name)
        key = entry.of, entry.arch
        if key not in self._float:
            self._float[key] = place / f"{len(self._float)}.onnx"
            onnx.save(_proto(entry), self._float[key])
        whole = self._float[key]
        if entry.int8:
            whole = place / "int8.onnx"
            _quantize(self._float[key], whole, entry)
        proto = onnx.load(whole)
        self._share(proto)
        onnx.save(proto, self._folder / file)

    def _share(self, proto: Any) -> None:
        """Have the matrices of a graph read the shared file."""
        import onnx

        sizes = {onnx.TensorProto.FLOAT: 4, onnx.TensorProto.INT8: 1}
        for tensor in proto.graph.initializer:
            size = sizes.get(tensor.data_type, 0) * int(np.prod(tensor.dims))
            if len(tensor.dims) < 2 or size < 1024:
                continue
            self._most = max(self._most, size)
            tensor.ClearField("raw_data")
            tensor.ClearField("float_data")
            tensor.ClearField("int32_data")
            tensor.data_location = onnx.TensorProto.EXTERNAL
            del tensor.external_data[:]
            for key, value in {"location": WEIGHTS, "offset": 0, "length": size}.items():
                tensor.external_data.add(key=key, value=str(value))


def _proto(entry: Entry) -> Any:
    """The ONNX model of an entry in float, as exports write it."""
    if entry.of is None:
        model: nn.Module = ViT(entry.arch).eval()
    else:
        model = _Alone(Block(entry.arch, entry.widths[0])).eval()
    example = torch.randn(2, *entry.shape, generator=torch.Generator().manual_seed(0))
    with _plain(model):
        program = torch.onnx.export(
            model,
            (example,),
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            dynamo=True,
            verbose=False,
        )
    if program is None:
        raise ExportError("torch.onnx.export returned no program")
    proto = program.model_proto
    del proto.graph.value_info[:]
    return proto


@contextmanager
def _plain(model: nn.Module) -> Iterator[None]:
    """Attention as plain products, and no warnings that callers cannot change."""
    for block in model.modules():
        if isinstance(block, Attention):
            block.fused = False
    with warnings.catch_warnings():
        # torch's exporter warns about torch's own tree code
        warnings.filterwarnings("ignore", r".*isinstance\(treespec, LeafSpec\)", FutureWarning)
        yield


def _quantize(source: Path, target: Path, entry: Entry) -> None:
    """Linear layers in int8, per channel, as the format onnx-int8 has them; ranges of random input."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    ready = source.with_name("ready.onnx")
    quant_pre_process(str(source), str(ready), skip_optimization=True, skip_symbolic_shape=True)
    graph = onnx.load(ready).graph
    constants = {value.name for value in graph.initializer if len(value.dims) == 2}
    quantize_static(
        str(ready),
        str(target),
        _OneBatch(entry.shape),
        op_types_to_quantize=list(_OPERATORS),
        nodes_to_quantize=[
            node.name for node in graph.node if node.op_type in _OPERATORS and node.input[1] in constants
        ],
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        extra_options={
            "OpTypesToExcludeOutputQuantization": list(_OPERATORS),
            "MatMulConstBOnly": True,
        },
    )


class _OneBatch:
    """One random image, or its tokens, to calibrate on."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._left = [np.random.default_rng(0).standard_normal((1, *shape), dtype=np.float32)]

    def get_next(self) -> dict[str, Any] | None:
        return {INPUT: self._left.pop()} if self._left else None
