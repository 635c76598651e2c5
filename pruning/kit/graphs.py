"""ONNX files of models and blocks with random weights, which all lie in one small file.

Times do not depend on weights. So the large tensors of all files are the same bytes of `weights.bin`,
each from its beginning, and a kit takes as much room as the largest matrix and the graphs.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from analysis.vit import Block, ViT
from pruning.export import flat_block, flat_tokens, onnx_program
from pruning.kit.layout import Entry
from pruning.quantize import quantize_onnx

WEIGHTS = "weights.bin"


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
        key = entry.of, entry.arch, entry.tokens
        if key not in self._float:
            self._float[key] = place / f"{len(self._float)}.onnx"
            onnx.save(_proto(entry), self._float[key])
        whole = self._float[key]
        if entry.int8 and any(block.heads or block.mlp for block in entry.widths):  # else nothing is linear
            whole = place / "int8.onnx"
            image = torch.randn(1, *entry.shape, generator=torch.Generator().manual_seed(0))
            quantize_onnx(self._float[key], whole, [image])
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
    """The ONNX model of an entry in float, in the form that exports write."""
    if entry.of is None:
        module: nn.Module = flat_tokens(ViT(entry.arch).eval())
    else:
        module = flat_block(
            Block(entry.arch, entry.widths[0]).eval(), entry.shape[0], entry.tokens is not None
        )
    example = torch.randn(2, *entry.shape, generator=torch.Generator().manual_seed(0))
    proto = onnx_program(module, example).model_proto
    del proto.graph.value_info[:]
    return proto
