"""Exports a model to ONNX and to a torch program (.pt2), and checks each file against the model."""

from __future__ import annotations

import copy
import io
import json
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from analysis.measure import Runner
from analysis.models import LoadedModel, Preprocess
from analysis.paths import is_file, is_there, user_path
from analysis.vit import ViT
from pruning.bundle.layout import PLAN_FILE
from pruning.bundle.output import require_folder_for_files, require_new_folder
from pruning.bundle.report import find_report
from pruning.bundle.staging import staged_files, staged_folder
from pruning.bundle.write import write_files
from pruning.cut import Plan

FORMATS = ("bundle", "onnx", "pt2")
TOLERANCE = 1e-4  # on logits, relative to the largest logit if that is above one

_INPUT, _OUTPUT = "images", "logits"


class ExportError(RuntimeError):
    """An exported file does not compute the same logits as the model."""


def export_onnx(model: ViT, path: Path, preprocess: Preprocess | None = None) -> Path:
    """Write an ONNX file with dynamic batch size, and compare it with the model in ONNX Runtime.

    Input `images` B C Y X, output `logits`. `preprocess` is stored in the file's metadata as JSON, its
    labels also separately. Weights above protobuf's limit of 2 GB go to a second file next to it.

    Raises:
        ExportError: ONNX Runtime computes different logits.
        OutputError: the file could not be written.
    """
    with staged_files(path.parent) as stage:
        _write_onnx(model, preprocess, stage / path.name)
    return path


def export_pt2(model: ViT, path: Path, preprocess: Preprocess | None = None) -> Path:
    """Write a torch program with dynamic batch size, and compare it with the model after reloading.

    `torch.export.load(path).module()` loads it with torch alone, without the bundle's vit.py. `preprocess`
    is stored in it as an extra file.

    Raises:
        ExportError: the reloaded program computes different logits.
        OutputError: the file could not be written.
    """
    with staged_files(path.parent) as stage:
        _write_pt2(model, preprocess, stage / path.name)
    return path


def export_formats(
    loaded: LoadedModel,
    formats: Sequence[str],
    folder: Path,
    *,
    report: Mapping[str, object] | None = None,
    plan: Plan | None = None,
    half: bool = False,
    overwrite: bool = False,
) -> dict[str, Path]:
    """Write a model in several formats into one folder: either all of them or none.

    Formats are `bundle`, `onnx` and `pt2`. With `bundle` the folder must be new (or with
    `overwrite` a bundle, which is replaced); without it, model.onnx and model.pt2 are added to the folder.
    Report and plan default to those of the bundle that the model was loaded from.

    Raises:
        ValueError: no format or an unknown one, or a folder that must not be replaced.
        ExportError: a file computes different logits than the model.
        OutputError: the folder could not be written.
    """
    files = [format for format in _known(formats) if format != "bundle"]
    whole = "bundle" in formats
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
                half=half,
            )
        for format in files:
            _WRITERS[format](loaded.model, loaded.preprocess, stage / f"model.{format}")
    written = {format: folder / f"model.{format}" for format in files}
    return {"bundle": folder, **written} if whole else written


def require_exportable(folder: Path, formats: Sequence[str]) -> None:
    """Check before the work that `export_formats` can write to a folder, and replaces nothing but exports.

    Raises:
        ValueError: the folder, or a file in it, must not be replaced.
        OutputError: nothing can be written there.
    """
    if "bundle" in formats:
        require_new_folder(folder)
        return
    require_folder_for_files(folder)
    for format in formats:
        file = folder / f"model.{format}"
        if is_there(file) and not (is_file(file) and _ARE_OURS[format](file)):
            raise ValueError(
                f"{file} exists and is no export, so it is not overwritten; choose another folder"
            )


def onnx_runner(source: Path | ViT, threads: int | None = None) -> Runner:
    """A runner of forward passes in ONNX Runtime on the CPU, from a file or a model.

    `threads` is the number of threads within an operator; None means torch's current number.

    Raises:
        ValueError: the file is missing, or not an ONNX model with this project's input and output.
    """
    if isinstance(source, ViT):
        with tempfile.TemporaryDirectory() as folder:
            return onnx_runner(export_onnx(source, Path(folder) / "model.onnx"), threads)
    return _run(_session(source, threads or torch.get_num_threads()))


def _known(formats: Sequence[str]) -> tuple[str, ...]:
    if not formats:
        raise ValueError(f"give at least one format: {', '.join(FORMATS)}")
    for format in formats:
        if format not in FORMATS:
            raise ValueError(f"there is no format {format!r}; there are {', '.join(FORMATS)}")
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


def _write_onnx(model: ViT, preprocess: Preprocess | None, path: Path) -> None:
    model = _portable(model)
    # ONNX Runtime computes attention as plain products, so padding for the fused kernel would only cost time
    with model.plain_attention(), _without_library_warnings():
        program = torch.onnx.export(
            model,
            (_images(model, 2),),
            input_names=[_INPUT],
            output_names=[_OUTPUT],
            dynamic_shapes=_dynamic_batch(),
            dynamo=True,
            verbose=False,
        )
    if program is None:
        raise ExportError("torch.onnx.export returned no program")
    program.model.metadata_props.update(_metadata(preprocess))
    program.save(path)
    _check("ONNX", _run(_session(path, torch.get_num_threads())), model)


def _write_pt2(model: ViT, preprocess: Preprocess | None, path: Path) -> None:
    model = _portable(model)
    with _without_library_warnings():
        program = torch.export.export(model, (_images(model, 2),), dynamic_shapes=_dynamic_batch())
        program.example_inputs = None  # torch would pickle them into the file
        # in memory first, because torch's own file writer aborts the process if the disk is full
        content = io.BytesIO()
        torch.export.save(program, content, extra_files=_metadata(preprocess))
        path.write_bytes(content.getbuffer())
        reloaded = torch.export.load(path).module()
    _check(".pt2", reloaded, model)


_WRITERS: dict[str, Callable[[ViT, Preprocess | None, Path], None]] = {
    "onnx": _write_onnx,
    "pt2": _write_pt2,
}


def _is_our_onnx(file: Path) -> bool:
    try:
        return bool(_session(file, 1))
    except ValueError:
        return False


def _is_our_pt2(file: Path) -> bool:
    try:
        with zipfile.ZipFile(file) as archive:
            return any(name.endswith("extra/preprocess") for name in archive.namelist())
    except (zipfile.BadZipFile, OSError, ValueError):
        return False


_ARE_OURS: dict[str, Callable[[Path], bool]] = {"onnx": _is_our_onnx, "pt2": _is_our_pt2}


def _portable(model: ViT) -> ViT:
    """A copy for exporting, which must not touch a model that may be in use elsewhere."""
    return copy.deepcopy(model).to("cpu", torch.float32).eval()


def _images(model: ViT, count: int) -> Float[Tensor, "B C Y X"]:
    shape = (count, model.arch.in_channels, *model.arch.image_size)
    return torch.randn(shape, generator=torch.Generator().manual_seed(count))


def _dynamic_batch() -> dict[str, dict[int, Any]]:
    return {_INPUT: {0: torch.export.Dim("batch")}}


def _metadata(preprocess: Preprocess | None) -> dict[str, str]:
    if preprocess is None:
        return {}
    labels = json.dumps(preprocess.labels, ensure_ascii=False)
    return {"preprocess": preprocess.to_json(), "labels": labels}


@contextmanager
def _without_library_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        # torch's exporter warns about torch's own tree code, which callers cannot change
        warnings.filterwarnings("ignore", r".*isinstance\(treespec, LeafSpec\)", FutureWarning)
        yield


def _check(format: str, run: Callable[[Tensor], Tensor], model: ViT) -> None:
    """Compare logits at two batch sizes, both different from the one used for exporting.

    Raises:
        ExportError: the logits differ, or are not finite.
    """
    for count in (1, 3):
        images = _images(model, count)
        with torch.inference_mode():
            expected, got = model(images), run(images)
        error = float((got - expected).abs().max())
        if not error <= TOLERANCE * max(1.0, float(expected.abs().max())):  # NaN is refused too
            raise ExportError(
                f"the {format} file computes different logits than the model (by {error:.2g}, batch {count})"
            )


def _session(path: Path, threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors only
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions have no common base class
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} cannot be opened as an ONNX model: {reason}") from error
    names = [value.name for value in (*session.get_inputs(), *session.get_outputs())]
    if names != [_INPUT, _OUTPUT]:
        raise ValueError(f"{path} must have input {_INPUT} and output {_OUTPUT}, has {', '.join(names)}")
    return session


def _run(session: Any) -> Callable[[Tensor], Tensor]:
    def run(images: Tensor) -> Tensor:
        return torch.from_numpy(session.run([_OUTPUT], {_INPUT: images.numpy()})[0])

    return run
