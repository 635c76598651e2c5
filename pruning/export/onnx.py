"""ONNX files: written, checked and run with ONNX Runtime."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from copy import copy
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from analysis.measure import Runner
from analysis.models import Preprocess
from analysis.vit import ViT
from pruning.bundle import staged_files
from pruning.export.check import (
    INPUT,
    LOGITS,
    OUTPUTS,
    ExportError,
    check_logits,
    dynamic_batch,
    example_images,
    metadata,
    output_name,
    portable,
    without_library_warnings,
)
from pruning.export.flat import flat_tokens
from pruning.export.names import name_layers

OPSET = 20  # the first with GELU as one operator


def export_onnx(model: ViT, path: Path, preprocess: Preprocess | None = None) -> Path:
    """Write an ONNX file with dynamic batch size, and compare it with the model in ONNX Runtime.

    Input `images` B C Y X, output `logits`, or `features`, the pooled ones, of a model without a classifier;
    nodes and weights have the names of the model's layers. Attention is plain products and tokens are the
    rows of one matrix, the fastest form measured that other tools read (benchmarks/onnx_forms.py; opset 23's
    Attention is no faster). Tokens merge by comparing pairs (`SortlessMerge`): sorting is 1 to 7 % faster in
    ONNX Runtime (DeiT-Tiny at 0.71 and 0.58 GMACs), but ncnn cannot. `preprocess` is stored in the file's
    metadata as JSON, its labels also separately. Weights above protobuf's limit of 2 GB go to a second file
    next to it.

    Raises:
        ExportError: ONNX Runtime computes different logits.
        OutputError: the file could not be written.
    """
    with staged_files(path.parent) as stage:
        write_onnx(model, preprocess, stage / path.name)
    return path


def write_onnx(model: ViT, preprocess: Preprocess | None, path: Path) -> None:
    """Write and check an ONNX file in a folder of its own, as `export_onnx` says."""
    model = portable(model)
    flat = flat_tokens(model)
    with flat.plain_attention():
        program = onnx_program(flat, example_images(model, 2), output_name(model))
    name_layers(program.model, flat.state_dict().keys())
    program.model.metadata_props.update(metadata(preprocess))
    program.save(path)
    check_logits("ONNX", _run(session(path, torch.get_num_threads())), model)


def onnx_program(module: nn.Module, example: Tensor, output: str = LOGITS) -> Any:
    """A module as torch's ONNX program, of any batch size, with an output of that name.

    The module's own input may have any name.

    Raises:
        ExportError: torch gives no program.
    """
    _keep_operators()
    with without_library_warnings():
        program = torch.onnx.export(
            module,
            (example,),
            input_names=[INPUT],
            output_names=[output],
            opset_version=OPSET,
            dynamic_shapes=tuple(dynamic_batch().values()),
            dynamo=True,
            verbose=False,
        )
    if program is None:
        raise ExportError("torch.onnx.export returned no program")
    return program


@cache
def _keep_operators() -> None:
    """Have torch compile its ONNX operators once in this process, and not for every export.

    There are some 500, and compiling them takes a second: longer than all the rest for a block of a kit, of
    which there are dozens. A torch that does it otherwise is left alone.
    """
    try:
        from torch.onnx._internal.exporter._registration import ONNXRegistry

        kept = cache(ONNXRegistry.from_torchlib)
    except (ImportError, AttributeError):
        return

    def from_torchlib(opset_version: int = OPSET) -> ONNXRegistry:
        made = copy(kept(opset_version))
        made.functions = {name: [*found] for name, found in made.functions.items()}  # callers add to it
        return made

    ONNXRegistry.from_torchlib = staticmethod(from_torchlib)  # type: ignore[method-assign]


def onnx_runner(source: Path | ViT, threads: int | None = None) -> Runner:
    """A runner of forward passes in ONNX Runtime on the CPU, from a file or a model.

    `threads` is the number of threads within an operator; None means torch's current number.

    Raises:
        ValueError: the file is missing, or not an ONNX model with this project's input and output.
    """
    if isinstance(source, ViT):
        with tempfile.TemporaryDirectory() as folder:
            return onnx_runner(export_onnx(source, Path(folder) / "model.onnx"), threads)
    return _run(session(source, threads or torch.get_num_threads()))


def session(path: Path, threads: int) -> Any:
    """Open an ONNX file in ONNX Runtime, on the CPU.

    Raises:
        ValueError: the file is missing, or not an ONNX model with this project's input and output.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors only
    # Threads would look for work for some 50 ms more, and take the cores from whatever runs next: of two
    # sessions timed in turns on two cores, both then seem two to three times as slow as each is alone.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    try:
        opened = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions have no common base class
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} cannot be opened as an ONNX model: {reason}") from error
    names = [value.name for value in (*opened.get_inputs(), *opened.get_outputs())]
    if names not in ([INPUT, output] for output in OUTPUTS):  # earlier files say logits of features, too
        wanted = f"input {INPUT} and output {' or '.join(OUTPUTS)}"
        raise ValueError(f"{path} must have {wanted}, has {', '.join(names)}")
    return opened


def is_our_onnx(file: Path) -> bool:
    """Whether a file is an ONNX model with this project's input and output."""
    try:
        return bool(session(file, 1))
    except ValueError:
        return False


def _run(session: Any) -> Callable[[Tensor], Tensor]:
    def run(images: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {INPUT: images.numpy()})[0])

    return run
