"""Bundles: a model in files that load without this project."""

from pruning.bundle.card import LOADER
from pruning.bundle.layout import (
    CARD_FILE,
    CODE_FILE,
    DTYPES,
    EVALUATIONS_FILE,
    EXAMPLE_FILE,
    JOB_FILE,
    PLAN_FILE,
    REPORT_FILE,
    STATUS_FILE,
    is_bundle,
    require_free,
)
from pruning.bundle.output import require_file, require_folder_for_files, require_new_folder
from pruning.bundle.precision import rounded
from pruning.bundle.report import RECOVER, Report, find_report
from pruning.bundle.staging import staged_files, staged_folder
from pruning.bundle.write import write_bundle, write_files, zip_bundle

__all__ = [
    "CARD_FILE",
    "CODE_FILE",
    "DTYPES",
    "EVALUATIONS_FILE",
    "EXAMPLE_FILE",
    "JOB_FILE",
    "LOADER",
    "PLAN_FILE",
    "RECOVER",
    "REPORT_FILE",
    "STATUS_FILE",
    "Report",
    "find_report",
    "is_bundle",
    "require_file",
    "require_folder_for_files",
    "require_free",
    "require_new_folder",
    "rounded",
    "staged_files",
    "staged_folder",
    "write_bundle",
    "write_files",
    "zip_bundle",
]
