"""Models in int8, for ONNX Runtime and OpenVINO: quantised, and measured against the float model."""

from pruning.quantize.formats import FORMATS, INT8_FORMATS, QuantizeImages, quantized_formats
from pruning.quantize.onnx import quantize_onnx
from pruning.quantize.openvino import openvino_runner
from pruning.quantize.report import QuantizedReport

__all__ = [
    "FORMATS",
    "INT8_FORMATS",
    "QuantizeImages",
    "QuantizedReport",
    "openvino_runner",
    "quantize_onnx",
    "quantized_formats",
]
