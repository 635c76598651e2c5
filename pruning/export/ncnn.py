"""ncnn's format for phones and small boards: a .param file with the layers, a .bin file with the weights."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import subprocess
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from analysis.models import Preprocess
from analysis.vit import ViT
from pruning.export.check import (
    ExportError,
    check_logits,
    example_images,
    metadata,
    portable,
)
from pruning.export.plain_operators import plain_operators

NCNN_FILE, NCNN_BESIDE = "model.ncnn.param", ("model.ncnn.bin", "model.ncnn.json")
_PATIENCE = 900  # seconds; a ViT-B takes less than one minute
_MAGIC = b"7767517"  # the first line of a .param file


def write_ncnn(model: ViT, preprocess: Preprocess | None, path: Path) -> None:
    """Write and check ncnn's files in a folder of its own: `path` (.param), with .bin and .json beside it.

    pnnx converts the traced model. It takes one image at a time, `in0` C Y X, and gives `out0`. The .json
    holds what an ONNX file has as metadata: preprocessing and labels. Weights that half precision holds
    exactly are stored in it.

    Raises:
        ValueError: a model that ncnn cannot express.
        ExportError: pnnx fails, or ncnn computes different logits.
    """
    model = plain_operators(portable(model))
    with tempfile.TemporaryDirectory() as folder:
        traced = Path(folder) / "model.pt"
        one = example_images(model, 1)
        traced.write_bytes(_trace(model, one))
        _convert(traced, one, half=_is_half(model))
        for suffix in (".param", ".bin"):
            path.with_suffix(suffix).write_bytes(traced.with_suffix(f".ncnn{suffix}").read_bytes())
    about = {name: json.loads(text) for name, text in metadata(preprocess).items()}
    path.with_suffix(".json").write_text(
        json.dumps(about, ensure_ascii=False, indent=2) + "\n", encoding="utf-8", newline="\n"
    )
    check_logits("ncnn", ncnn_runner(path, torch.get_num_threads()), model)


def ncnn_runner(file: Path, threads: int) -> Callable[[Tensor], Tensor]:
    """A runner of forward passes in ncnn on the CPU, image by image, in float32.

    Raises:
        ValueError: the files cannot be opened.
    """
    ncnn: Any = importlib.import_module("ncnn")
    net = ncnn.Net()
    net.opt.num_threads = threads
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    net.opt.use_bf16_storage = False
    if net.load_param(str(file)) or net.load_model(str(file.with_suffix(".bin"))):
        raise ValueError(f"{file} cannot be opened as an ncnn model")

    def run(images: Tensor) -> Tensor:
        found = []
        for image in images:
            with net.create_extractor() as extractor:
                extractor.input("in0", ncnn.Mat(image.numpy()).clone())
                found.append(torch.from_numpy(extractor.extract("out0")[1].numpy().copy()))
        return torch.stack(found)

    return run


def is_ncnn(file: Path) -> bool:
    """Whether a file begins as ncnn's .param does."""
    with contextlib.suppress(OSError), file.open("rb") as stream:
        return stream.read(len(_MAGIC)) == _MAGIC
    return False


def _trace(model: ViT, one: Tensor) -> bytes:
    """The model as TorchScript, which pnnx reads best; torch has deprecated it, and warns of fixed shapes."""
    with model.plain_attention(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # in memory, because torch's own file writer aborts the process if the disk is full
        content = io.BytesIO()
        torch.jit.save(torch.jit.trace(model, one, check_trace=False), content)
    return content.getvalue()


def _convert(traced: Path, one: Tensor, half: bool) -> None:
    """Run pnnx on a traced model, which leaves its files beside it."""
    pnnx: Any = importlib.import_module("pnnx")
    shape = "[" + ",".join(map(str, one.shape)) + "]f32"
    words = [pnnx.EXEC_PATH, traced.name, f"inputshape={shape}", f"fp16={int(half)}"]
    try:
        done = subprocess.run(
            words,
            cwd=traced.parent,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_PATIENCE,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ExportError(f"pnnx was stopped after {_PATIENCE} s without an end") from error
    if done.returncode or not traced.with_suffix(".ncnn.bin").exists():
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:] or ["it says nothing"]
        raise ExportError(f"pnnx could not convert the model: {last[0]}")


def _is_half(model: ViT) -> bool:
    """Whether half precision holds all weights exactly."""
    return all(torch.equal(one, one.half().float()) for one in model.state_dict().values())
