"""What the processor does that tests must know of."""

from __future__ import annotations

from functools import cache

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper


@cache
def saturates() -> bool:
    """Whether sums of two int8 products are cut off at 16 bits, as on x86 processors without VNNI."""
    whole = 255 * 127 * 16
    node = helper.make_node("MatMulInteger", ["a", "b"], ["y"])
    graph = helper.make_graph(
        [node],
        "saturates",
        [helper.make_tensor_value_info("a", TensorProto.UINT8, [16, 16])],
        [helper.make_tensor_value_info("y", TensorProto.INT32, [16, 16])],
        [helper.make_tensor("b", TensorProto.INT8, [16, 16], [127] * 256)],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(proto)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    (got,) = session.run(None, {"a": np.full((16, 16), 255, np.uint8)})
    return bool((got != whole).any())
