"""The names of the files in a bundle."""

from __future__ import annotations

from pathlib import Path

from analysis.models import REQUIRED_FILES
from analysis.paths import is_file

PLAN_FILE = "plan.json"
REPORT_FILE = "report.json"
CARD_FILE = "README.md"
CODE_FILE = "vit.py"
EXAMPLE_FILE = "example.py"
JOB_FILE = "job.json"
STATUS_FILE = "status.json"
EVALUATIONS_FILE = "evaluations.json"
DTYPES = ("float32", "float16")  # of the weights in a bundle
# what transformers reads besides, in a bundle that is one of its models, too
CONFIG_FILE = "config.json"
PROCESSOR_FILE = "preprocessor_config.json"
TRANSFORMERS_CODE = (
    "configuration_prunescope.py",
    "modeling_prunescope.py",
    "image_processing_prunescope.py",
)
TRANSFORMERS_FILES = (CONFIG_FILE, PROCESSOR_FILE, *TRANSFORMERS_CODE)
EXPORTS = (  # exports that may be in the same folder
    "model.onnx",
    "model.onnx.data",
    "model.pt2",
    "model.ncnn.param",
    "model.ncnn.bin",
    "model.ncnn.json",
    "model.int8.onnx",
    "model.int8.json",
    "openvino.xml",
    "openvino.bin",
    "openvino.int8.xml",
    "openvino.int8.bin",
    "openvino.int8.json",
)
FILES = (
    *REQUIRED_FILES,
    PLAN_FILE,
    REPORT_FILE,
    CARD_FILE,
    CODE_FILE,
    EXAMPLE_FILE,
    *TRANSFORMERS_FILES,
    *EXPORTS,
)
# Files that a command writes next to its bundle so that the folder is also a finished run. They contain paths
# on this machine and are not included when the bundle is downloaded.
RECORDS = (JOB_FILE, STATUS_FILE, EVALUATIONS_FILE)


def is_bundle(folder: Path) -> bool:
    """Whether a folder has all the files that a bundle requires."""
    return all(is_file(folder / name) for name in REQUIRED_FILES)


def require_free(folder: Path, overwrite: bool = False) -> None:
    """Check that a bundle may be written to `folder`.

    Raises:
        ValueError: it is a file, or contains something that must not be replaced.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ValueError(f"{folder} is a file; choose a folder that does not exist yet")
    content = sorted(path.name for path in folder.iterdir())
    if not content:
        return
    if not overwrite:
        raise ValueError(f"{folder} already contains {content[0]}; choose a folder that does not exist yet")
    foreign = [name for name in content if name not in (*FILES, *RECORDS, "__pycache__")]
    if foreign or not is_bundle(folder):
        what = f"contains {foreign[0]}, which is not part of a bundle" if foreign else "is not a bundle"
        raise ValueError(f"{folder} {what}, so it is not overwritten; choose another folder")
