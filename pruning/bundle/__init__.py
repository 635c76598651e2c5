"""Bundles and exports: a model in files that load without this project."""

from pruning.bundle.card import LOADER
from pruning.bundle.export import (
    FORMATS,
    ExportError,
    export_formats,
    export_onnx,
    export_pt2,
    onnx_runner,
    require_exportable,
)
from pruning.bundle.layout import (
    CARD_FILE,
    CODE_FILE,
    EVALUATIONS_FILE,
    EXAMPLE_FILE,
    JOB_FILE,
    PLAN_FILE,
    REPORT_FILE,
    STATUS_FILE,
    is_bundle,
    require_free,
)
from pruning.bundle.output import require_file, require_new_folder
from pruning.bundle.report import Report, find_report
from pruning.bundle.write import write_bundle, zip_bundle

__all__ = [
    "CARD_FILE",
    "CODE_FILE",
    "EVALUATIONS_FILE",
    "EXAMPLE_FILE",
    "FORMATS",
    "JOB_FILE",
    "LOADER",
    "PLAN_FILE",
    "REPORT_FILE",
    "STATUS_FILE",
    "ExportError",
    "Report",
    "export_formats",
    "export_onnx",
    "export_pt2",
    "find_report",
    "is_bundle",
    "onnx_runner",
    "require_exportable",
    "require_file",
    "require_free",
    "require_new_folder",
    "write_bundle",
    "zip_bundle",
]
