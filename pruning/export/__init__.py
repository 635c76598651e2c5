"""Exports: a model as an ONNX file or a torch program, each checked against the model."""

from pruning.export.check import INPUT, ExportError, check_logits
from pruning.export.flat import flat_block, flat_tokens
from pruning.export.formats import (
    FILES,
    FOLDERS,
    FORMATS,
    FileFormat,
    export_formats,
    require_exportable,
    written_names,
)
from pruning.export.hub import push, require_hub
from pruning.export.onnx import export_onnx, is_our_onnx, onnx_program, onnx_runner, write_onnx
from pruning.export.packages import missing_packages, require_packages
from pruning.export.pt2 import export_pt2

__all__ = [
    "FILES",
    "FOLDERS",
    "FORMATS",
    "INPUT",
    "ExportError",
    "FileFormat",
    "check_logits",
    "export_formats",
    "export_onnx",
    "export_pt2",
    "flat_block",
    "flat_tokens",
    "is_our_onnx",
    "missing_packages",
    "onnx_program",
    "onnx_runner",
    "push",
    "require_exportable",
    "require_hub",
    "require_packages",
    "write_onnx",
    "written_names",
]
