"""The formats that a model is exported in, and all that are asked for written into one folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from analysis.models import LoadedModel, Preprocess
from analysis.paths import is_file, is_there, user_path
from analysis.vit import ViT
from pruning.bundle import (
    PLAN_FILE,
    find_report,
    require_folder_for_files,
    require_new_folder,
    staged_files,
    staged_folder,
    write_files,
)
from pruning.cut import Plan
from pruning.export.ncnn import NCNN_BESIDE, NCNN_FILE, is_ncnn, write_ncnn
from pruning.export.onnx import is_our_onnx, write_onnx
from pruning.export.packages import require_packages
from pruning.export.pt2 import is_our_pt2, write_pt2


@dataclass(frozen=True)
class FileFormat:
    """A format that is a file, `file`, in the folder.

    `write` writes it to a path and checks it against the model. `is_ours` says whether a file is an
    earlier export, which may be replaced. `beside` names further files that are written with it.
    """

    file: str
    write: Callable[[ViT, Preprocess | None, Path], None]
    is_ours: Callable[[Path], bool]
    beside: tuple[str, ...] = ()


FILES = {
    "onnx": FileFormat("model.onnx", write_onnx, is_our_onnx),
    "pt2": FileFormat("model.pt2", write_pt2, is_our_pt2),
    "ncnn": FileFormat(NCNN_FILE, write_ncnn, is_ncnn, NCNN_BESIDE),
}
# Formats that are the whole folder. Of transformers is a bundle that transformers loads, too.
FOLDERS = ("bundle", "transformers")
FORMATS = (*FOLDERS, *FILES)


def export_formats(
    loaded: LoadedModel,
    formats: Sequence[str],
    folder: Path,
    *,
    report: Mapping[str, object] | None = None,
    plan: Plan | None = None,
    dtype: str | None = None,
    overwrite: bool = False,
    known: Mapping[str, FileFormat] = FILES,
) -> dict[str, Path]:
    """Write a model in several formats into one folder: either all of them or none.

    Formats are `FOLDERS` and those in `known`. With one of `FOLDERS` the folder must be new (or with
    `overwrite` a bundle, which is replaced); without, model.onnx and model.pt2 are added to the folder.
    Report and plan default to those of the bundle that the model was loaded from. `dtype`, one of `DTYPES`,
    is the precision of the weights in the folder, by default that of the bundle the model came in.

    Raises:
        ValueError: no format or an unknown one, one whose packages are not installed, or a folder that must
            not be replaced.
        ExportError: a file computes different logits than the model.
        OutputError: the folder could not be written.
    """
    asked = _require_known(formats, known)
    for format in asked:
        require_packages(format)
    files = [format for format in asked if format not in FOLDERS]
    whole = [format for format in asked if format in FOLDERS]
    with staged_folder(folder, overwrite=overwrite) if whole else staged_files(folder) as stage:
        if whole:
            kept_report, kept_plan = _records(loaded)
            write_files(
                stage,
                loaded.model,
                loaded.preprocess,
                name=loaded.name,
                report=kept_report if report is None else report,
                plan=kept_plan if report is None and plan is None else plan,
                half=loaded.half if dtype is None else dtype == "float16",
                transformers="transformers" in whole,
            )
        for format in files:
            known[format].write(loaded.model, loaded.preprocess, stage / known[format].file)
    return dict.fromkeys(whole, folder) | {format: folder / known[format].file for format in files}


def require_exportable(folder: Path, formats: Sequence[str], known: Mapping[str, FileFormat] = FILES) -> None:
    """Check before the work that `export_formats` can write to a folder, and replaces nothing but exports.

    Raises:
        ValueError: the folder, or a file in it, must not be replaced.
        OutputError: nothing can be written there.
    """
    if any(format in FOLDERS for format in formats):
        require_new_folder(folder)
        return
    require_folder_for_files(folder)
    for format in formats:
        _require_replaceable(folder, known[format])


def written_names(
    folder: Path, formats: Sequence[str], known: Mapping[str, FileFormat] = FILES
) -> tuple[str, ...]:
    """The names of the files that `export_formats` has written into a folder."""
    if any(format in FOLDERS for format in formats):
        return tuple(sorted(file.name for file in folder.iterdir()))
    names = [name for format in formats for name in (known[format].file, *known[format].beside)]
    names += [f"{name}.data" for name in names]  # weights beyond the limit of an ONNX file
    return tuple(name for name in dict.fromkeys(names) if is_file(folder / name))


def _require_replaceable(folder: Path, format: FileFormat) -> None:
    """Check that what lies where a format is written is an earlier export, with the files beside it."""
    file = folder / format.file
    foreign = is_there(file) and not (is_file(file) and format.is_ours(file))
    beside = [] if is_there(file) else [folder / name for name in format.beside if is_there(folder / name)]
    for there in [file] * foreign + beside:
        raise ValueError(f"{there} exists and is no export, so it is not overwritten; choose another folder")


def _require_known(formats: Sequence[str], known: Mapping[str, FileFormat]) -> tuple[str, ...]:
    names = (*FOLDERS, *known)
    if not formats:
        raise ValueError(f"give at least one format: {', '.join(names)}")
    for format in formats:
        if format not in names:
            raise ValueError(f"there is no format {format!r}; there are {', '.join(names)}")
    return tuple(dict.fromkeys(formats))


def _records(loaded: LoadedModel) -> tuple[Mapping[str, object], Plan | None]:
    """Report and plan of the bundle that a model was loaded from; empty if it came from elsewhere.

    Raises:
        ValueError: they are damaged.
    """
    if not loaded.source.startswith("bundle "):
        return {}, None
    folder = user_path(loaded.name, "the model")
    if loaded.source != f"bundle {folder}":
        return {}, None
    report = find_report(folder)
    return report.figures() if report else {}, Plan.find(folder / PLAN_FILE)
