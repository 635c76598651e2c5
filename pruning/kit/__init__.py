"""Benchmark kits: a folder that times a model and its blocks on any device, and what it measured there."""

from pruning.kit.device import DeviceTable, read_device
from pruning.kit.here import OnnxClock, measure_onnx_table
from pruning.kit.write import require_new_kit, write_kit

__all__ = [
    "DeviceTable",
    "OnnxClock",
    "measure_onnx_table",
    "read_device",
    "require_new_kit",
    "write_kit",
]
