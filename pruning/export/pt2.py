"""Torch programs (.pt2): written, checked, and loaded with torch alone."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import torch
from torch import Tensor
from torch.export import ExportedProgram

from analysis.models import Preprocess
from analysis.vit import ViT
from pruning.bundle import staged_files
from pruning.export.check import (
    check_logits,
    dynamic_batch,
    example_images,
    metadata,
    portable,
    without_library_warnings,
)


def export_pt2(model: ViT, path: Path, preprocess: Preprocess | None = None) -> Path:
    """Write a torch program with dynamic batch size, and compare it with the model after reloading.

    `torch.export.load(path).module()` loads it with torch alone, without the bundle's vit.py. `preprocess`
    is stored in it as an extra file. Example inputs are stored too, as AOTInductor asks for them.

    Raises:
        ExportError: the reloaded program computes different logits.
        OutputError: the file could not be written.
    """
    with staged_files(path.parent) as stage:
        write_pt2(model, preprocess, stage / path.name)
    return path


def write_pt2(model: ViT, preprocess: Preprocess | None, path: Path) -> None:
    """Write and check a torch program in a folder of its own, as `export_pt2` says."""
    model = portable(model)
    with without_library_warnings():
        program = torch.export.export(model, (example_images(model, 2),), dynamic_shapes=dynamic_batch())
        _leave_out_what_is_foreign(program)
        program.example_inputs = ((_small_example(model),), {})
        # in memory first, because torch's own file writer aborts the process if the disk is full
        content = io.BytesIO()
        torch.export.save(program, content, extra_files=metadata(preprocess))
        path.write_bytes(content.getbuffer())
        reloaded = torch.export.load(path).module()
    check_logits(".pt2", reloaded, model)


def _small_example(model: ViT) -> Tensor:
    """Two images that are stored as one number.

    AOTInductor compiles a program for its example inputs. torch stores them as it stores any tensor, which
    `torch.load(..., weights_only=True)` reads.
    """
    return torch.zeros(1).expand(example_images(model, 2).shape)


def _leave_out_what_is_foreign(program: ExportedProgram) -> None:
    """Remove the traces that torch writes beside each operation, with paths of this machine."""
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)


def is_our_pt2(file: Path) -> bool:
    """Whether a file is a torch program that this project wrote."""
    try:
        with zipfile.ZipFile(file) as archive:
            return any(name.endswith("extra/preprocess") for name in archive.namelist())
    except (zipfile.BadZipFile, OSError, ValueError):
        return False
