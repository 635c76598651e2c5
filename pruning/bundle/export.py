"""Writes a model as ONNX and as a torch program (.pt2), and checks each file against the model."""

from __future__ import annotations

import copy
import io
import json
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from analysis.measure import Runner
from analysis.models import LoadedModel, Preprocess
from analysis.vit import ViT
from pruning.bundle.layout import PLAN_FILE
from pruning.bundle.report import find_report
from pruning.bundle.staging import staged_files, staged_folder
from pruning.bundle.write import write_files
from pruning.cut import Plan

FORMATS = ("bundle", "onnx", "pt2")
TOLERANCE = 1e-4  # on logits, relative to the largest where that is above one

_INPUT, _OUTPUT = "images", "logits"


class ExportError(RuntimeError):
    """An exported file does not compute what the model computes."""


def export_onnx(model: ViT, path: Path, preprocess: Preprocess | None = None) -> Path:
    """Write one ONNX file with any batch size, and compare it with the model in ONNX Runtime.

    Input `images` B C Y X, output `logits`. `preprocess` goes into the file's metadata as JSON,
    its labels also by themselves. Weights above protobuf's 2 GB lie in a second file beside it.

    Raises:
        ExportError: ONNX Runtime gives other logits.
        OutputError: the file could not be written.
    """
    with staged_files(path.parent) as stage:
        _write_onnx(model, preprocess, stage / path.name)
    return path


def export_pt2(model: ViT, path: Path, preprocess: Preprocess | None = None) -> Path:
    """Write a torch program with any batch size, for `torch.export.load(path).module()`; checked.

    It needs torch alone, not even the bundle's vit.py. `preprocess` travels as an extra file.

    Raises:
        ExportError: the reloaded program gives other logits.
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
    """Write a model in several formats into one folder: all of them, or none.

    Formats are `bundle`, `onnx` and `pt2`. With `bundle` the folder must be new (or with
    `overwrite` a bundle, which is replaced); without, model.onnx and model.pt2 are put into it.
    Without a report and plan, those of the bundle that the model was loaded from are taken.

    Raises:
        ValueError: an unknown format or none, or a folder that must not be replaced.
        ExportError: a file gives other logits than the model.
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


def onnx_runner(source: Path | ViT, threads: int | None = None) -> Runner:
    """Forward passes in ONNX Runtime on the CPU, for `latency.bench`: of a file, or of a model.

    `threads` is for one operator; None takes torch's current count.

    Raises:
        ValueError: the file is missing, or no ONNX model with this project's input and output.
    """
    if isinstance(source, ViT):
        with tempfile.TemporaryDirectory() as folder:
            return onnx_runner(export_onnx(source, Path(folder) / "model.onnx"), threads)
    return _run(_session(source, threads or torch.get_num_threads()))


def _known(formats: Sequence[str]) -> tuple[str, ...]:
    if not formats:
        raise ValueError(f"name at least one format: {', '.join(FORMATS)}")
    for format in formats:
        if format not in FORMATS:
            raise ValueError(f"there is no format {format!r}; there are {', '.join(FORMATS)}")
    return tuple(dict.fromkeys(formats))


def _records(loaded: LoadedModel) -> tuple[Mapping[str, object], Plan | None]:
    """Report and plan of the bundle that a model was loaded from; empty where it was none.

    Raises:
        ValueError: they are damaged.
    """
    folder = Path(loaded.name).expanduser()
    if loaded.source != f"bundle {folder}":
        return {}, None
    report = find_report(folder)
    return report.figures() if report else {}, Plan.find(folder / PLAN_FILE)


def _write_onnx(model: ViT, preprocess: Preprocess | None, path: Path) -> None:
    model = _portable(model)
    # ONNX Runtime runs attention as plain products: padding for the fused kernel only costs there
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
        raise ExportError("torch.onnx.export gave no program")
    program.model.metadata_props.update(_metadata(preprocess))
    program.save(path)
    _check("ONNX", _run(_session(path, torch.get_num_threads())), model)


def _write_pt2(model: ViT, preprocess: Preprocess | None, path: Path) -> None:
    model = _portable(model)
    with _without_library_warnings():
        program = torch.export.export(model, (_images(model, 2),), dynamic_shapes=_dynamic_batch())
        program.example_inputs = None  # torch would pickle them into the file
        # in memory first: where the disk is full, torch's own file writer ends the process
        content = io.BytesIO()
        torch.export.save(program, content, extra_files=_metadata(preprocess))
        path.write_bytes(content.getbuffer())
        reloaded = torch.export.load(path).module()
    _check(".pt2", reloaded, model)


_WRITERS: dict[str, Callable[[ViT, Preprocess | None, Path], None]] = {
    "onnx": _write_onnx,
    "pt2": _write_pt2,
}


def _portable(model: ViT) -> ViT:
    """A copy to export: exporting must not touch a model that others may be using."""
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
        # raised by torch's exporter about torch's own tree code, nothing that a caller could change
        warnings.filterwarnings("ignore", r".*isinstance\(treespec, LeafSpec\)", FutureWarning)
        yield


def _check(format: str, run: Callable[[Tensor], Tensor], model: ViT) -> None:
    """Compare logits at two batch sizes, none of them the one that was exported with.

    Raises:
        ExportError: they differ, or are not finite.
    """
    for count in (1, 3):
        images = _images(model, count)
        with torch.inference_mode():
            expected, got = model(images), run(images)
        error = float((got - expected).abs().max())
        if not error <= TOLERANCE * max(1.0, float(expected.abs().max())):  # NaN is refused too
            raise ExportError(
                f"the {format} file gives other logits than the model (by {error:.2g}, batch {count})"
            )


def _session(path: Path, threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors only
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # each kind of damage is an exception class of its own, without a base
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
