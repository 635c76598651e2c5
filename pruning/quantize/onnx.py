"""Linear layers of an ONNX file in int8: static quantisation by ONNX Runtime's own tools."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from pruning.export import INPUT, ExportError

_OPERATORS = ("MatMul", "Gemm")
_OPTIONS = {
    # the result of a product goes to a bias, a norm or the residual stream, which are float
    "OpTypesToExcludeOutputQuantization": list(_OPERATORS),
    "MatMulConstBOnly": True,
    "CalibStridedMinMax": 1,  # one batch after the other, so that memory does not grow with their number
}


def quantize_onnx(
    source: Path,
    target: Path,
    images: Iterable[Float[Tensor, "B C Y X"]],
    nodes: Collection[str] | None = None,
) -> Path:
    """Write an ONNX file whose linear layers are computed in int8.

    Products with constant weights are wrapped in QuantizeLinear and DequantizeLinear (QDQ): weights as
    signed bytes with one scale for each output channel, activations as unsigned bytes with one range for
    each tensor, the least and the greatest value over `images`. `nodes` are the names of the nodes to
    quantise, None means all that `linear_nodes` finds. Products of two activations, as in attention, the
    patch embedding and everything else stay in float.

    Raises:
        ValueError: no images.
        ExportError: the file has no such nodes.
    """
    from onnxruntime.quantization import QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    batches = _Batches(images)
    with tempfile.TemporaryDirectory() as folder:
        ready = Path(folder) / "model.onnx"
        _save_without_shapes(source, ready)
        quant_pre_process(ready, ready, skip_optimization=True, skip_symbolic_shape=True)
        names = list(linear_nodes(ready) if nodes is None else nodes)
        if not names:
            raise ExportError(f"{source.name} has no linear layers that could be quantised")
        quantize_static(
            ready,
            target,
            batches,
            op_types_to_quantize=list(_OPERATORS),
            nodes_to_quantize=names,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            extra_options=dict(_OPTIONS),
        )
    return target


def linear_nodes(file: Path) -> dict[str, NDArray[np.float32]]:
    """The products with a constant matrix in an ONNX file: the name of each node, and its weights O I."""
    import onnx

    model = onnx.load(file)
    constants = {value.name: value for value in model.graph.initializer if len(value.dims) == 2}
    found = {}
    for node in model.graph.node:
        if node.op_type in _OPERATORS and node.input[1] in constants:
            weights = onnx.numpy_helper.to_array(constants[node.input[1]], str(file.parent))
            turned = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
            found[node.name] = weights if turned else weights.T
    return found


def nodes_of(file: Path, layers: Mapping[str, nn.Linear]) -> dict[str, str]:
    """The node of an ONNX file that computes each layer of a model, found by its weights.

    Raises:
        ExportError: a layer is not in the file.
    """
    at_hand = linear_nodes(file)
    found = {}
    for name, layer in layers.items():
        weights = layer.weight.detach().numpy()
        node = next((node for node, own in at_hand.items() if np.array_equal(own, weights)), None)
        if node is None:
            raise ExportError(f"the ONNX file has no product with the weights of {name}")
        found[name] = node
        del at_hand[node]
    return found


def _save_without_shapes(source: Path, target: Path) -> None:
    """Copy a file without the shapes of what it computes on the way, which are inferred anew."""
    import onnx

    model = onnx.load(source)
    del model.graph.value_info[:]
    onnx.save(model, target)


class _Batches:
    """The calibration images, as ONNX Runtime's quantisation reads them."""

    def __init__(self, images: Iterable[Tensor]) -> None:
        self._images = [batch.numpy() for batch in images]
        if not self._images:
            raise ValueError("there are no calibration images")
        self._left: Iterator[Any] = iter(self._images)

    def __len__(self) -> int:
        return len(self._images)

    def set_range(self, start_index: int, end_index: int) -> None:
        self._left = iter(self._images[start_index:end_index])

    def get_next(self) -> dict[str, Any] | None:
        batch = next(self._left, None)
        return None if batch is None else {INPUT: batch}
