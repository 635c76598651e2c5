"""Exports: a model as an ONNX file or a torch program, each checked against the model."""

from pruning.export.check import ExportError
from pruning.export.formats import FORMATS, export_formats, require_exportable
from pruning.export.onnx import export_onnx, onnx_runner
from pruning.export.pt2 import export_pt2

__all__ = [
    "FORMATS",
    "ExportError",
    "export_formats",
    "export_onnx",
    "export_pt2",
    "onnx_runner",
    "require_exportable",
]
