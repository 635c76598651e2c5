"""OpenVINO's format (IR: an .xml file and a .bin file with the weights), in float and int8."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pruning.quantize.check import Logits

_MERGING = r".*\.merge[./].*"  # names of nodes, as in the ONNX file


def openvino_from_onnx(source: Path, target: Path) -> Path:
    """Write an ONNX file as OpenVINO's .xml, with its .bin beside it, in full precision."""
    import openvino

    openvino.save_model(openvino.Core().read_model(source), target, compress_to_fp16=False)
    return target


def quantize_openvino(source: Path, target: Path, images: Sequence[Float[Tensor, "B C Y X"]]) -> Path:
    """Write an ONNX file as OpenVINO's int8, by NNCF's post-training quantisation for transformers.

    NNCF smooths by itself and quantises products of activations as well; where tokens merge these choose and
    move them, which stays in float. Its telemetry is switched off.

    Raises:
        ValueError: no images.
    """
    if not images:
        raise ValueError("there are no calibration images")
    import openvino

    nncf = _nncf()
    single = [image[None].numpy() for batch in images for image in batch]
    # its progress bars go to standard output, where a command's JSON belongs
    with contextlib.redirect_stdout(io.StringIO()):
        model = nncf.quantize(
            openvino.Core().read_model(source),
            nncf.Dataset(single),
            subset_size=len(single),
            model_type=nncf.ModelType.TRANSFORMER,
            ignored_scope=nncf.IgnoredScope(patterns=[_MERGING], validate=False),
        )
    openvino.save_model(model, target, compress_to_fp16=False)
    return target


def openvino_runner(file: Path, threads: int) -> Logits:
    """A runner of forward passes in OpenVINO on the CPU; what is float is computed in float32.

    Raises:
        ValueError: the file cannot be opened.
    """
    import openvino

    core = openvino.Core()
    settings: dict[str, Any] = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
    try:
        compiled = core.compile_model(core.read_model(file), "CPU", settings)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{file} cannot be opened as an OpenVINO model: {reason}") from error

    def run(images: Tensor) -> Tensor:
        return torch.from_numpy(compiled([images.numpy()])[0].copy())

    return run


def is_openvino(file: Path) -> bool:
    """Whether a file begins as OpenVINO's .xml does."""
    with contextlib.suppress(OSError), file.open("rb") as stream:
        return b"<net " in stream.read(200)
    return False


def _nncf() -> Any:
    """NNCF, which would report its use to a server unless this is set before it is imported."""
    before = os.environ.get("NNCF_CI")
    os.environ["NNCF_CI"] = "1"
    try:
        import nncf
    finally:
        if before is None:
            del os.environ["NNCF_CI"]
    nncf.set_log_level(40)  # errors only
    return nncf
