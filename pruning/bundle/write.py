"""Saves a model as a bundle: a folder that loads with torch and safetensors, without this project."""

from __future__ import annotations

import io
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from analysis.models import (
    ARCHITECTURE_FILE,
    IN_FULL,
    PREPROCESS_FILE,
    REQUIRED_FILES,
    WEIGHTS_FILE,
    Preprocess,
)
from analysis.vit import ViT
from pruning.bundle.card import card
from pruning.bundle.layout import (
    CARD_FILE,
    CODE_FILE,
    EXAMPLE_FILE,
    FILES,
    PLAN_FILE,
    REPORT_FILE,
    is_bundle,
)
from pruning.bundle.model_code import model_code
from pruning.bundle.report import Report
from pruning.bundle.staging import staged_folder
from pruning.bundle.transformers_files import transformers_texts
from pruning.cut import Plan, unmerged

_EXAMPLE = Path(__file__).parent / EXAMPLE_FILE


def write_bundle(
    folder: Path,
    model: ViT,
    preprocess: Preprocess,
    *,
    name: str,
    report: Mapping[str, object],
    plan: Plan | None = None,
    half: bool = False,
    overwrite: bool = False,
    records: Mapping[str, str] | None = None,
) -> Path:
    """Save a model so that it loads anywhere; the folder is written completely or not at all.

    `name` is the model that was loaded, for the card; `report` has the figures before and after, under the
    keys of `prune --json`. `half` stores float16, which loading casts back. With `overwrite` an existing
    bundle is replaced once the new one is complete. `records` are the texts of further files, by their names
    in `layout.RECORDS`.

    Raises:
        ValueError: the folder is not empty, or model, preprocessing, report and plan do not match.
        OutputError: the disk is full, or the folder cannot be written to.
    """
    with staged_folder(folder, overwrite=overwrite) as stage:
        write_files(stage, model, preprocess, name=name, report=report, plan=plan, half=half)
        for file, text in (records or {}).items():
            (stage / file).write_text(text, encoding="utf-8", newline="\n")
    return folder


def write_files(
    folder: Path,
    model: ViT,
    preprocess: Preprocess,
    *,
    name: str,
    report: Mapping[str, object],
    plan: Plan | None = None,
    half: bool = False,
    transformers: bool = False,
) -> None:
    """Write a bundle's files into an existing folder, one after the other.

    With `transformers` it is a model of Hugging Face transformers as well.

    Raises:
        ValueError: model, preprocessing and plan do not match, the report has other fields than a `Report`,
            or the weights are not finite.
    """
    _require_match(model, preprocess, plan)
    # a bundle that is saved again keeps the model name in its report
    stored = Report.from_data({"model": name} | dict(report)).without_places()
    pruned = plan is not None or stored.method is not None
    texts = {
        ARCHITECTURE_FILE: model.arch.to_json(),
        PREPROCESS_FILE: preprocess.to_json(),
        REPORT_FILE: stored.to_json(),
        CARD_FILE: card(
            name, model.arch, preprocess, stored, pruned=pruned, half=half, transformers=transformers
        ),
        CODE_FILE: model_code(),
        EXAMPLE_FILE: _EXAMPLE.read_text(encoding="utf-8"),
    }
    if plan is not None:
        texts[PLAN_FILE] = plan.to_json()
    if transformers:
        texts |= transformers_texts(model.arch, preprocess)
    for file, text in texts.items():
        (folder / file).write_text(text, encoding="utf-8", newline="\n")
    weights = folder / WEIGHTS_FILE
    save_file(_weights(model, half), weights, metadata={"format": "pt"})
    shutil.copymode(folder / CARD_FILE, weights)  # safetensors makes the file readable by its owner only


def zip_bundle(folder: Path) -> bytes:
    """A bundle as a zip with one folder in it, for downloading; equal files give an equal zip.

    Raises:
        ValueError: the folder is not a bundle.
    """
    if not is_bundle(folder):
        raise ValueError(f"{folder} is not a bundle: it needs {', '.join(REQUIRED_FILES)}")
    packed = io.BytesIO()
    # weights hardly compress, and without compression the bytes do not depend on the version of zlib
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(FILES):
            if (folder / name).is_file():
                entry = zipfile.ZipInfo(f"{folder.resolve().name}/{name}")  # always dated 1980
                entry.external_attr = 0o644 << 16
                archive.writestr(entry, (folder / name).read_bytes())
    return packed.getvalue()


def _require_match(model: ViT, preprocess: Preprocess, plan: Plan | None) -> None:
    arch = model.arch
    if preprocess.image_size != arch.image_size:
        raise ValueError(
            f"preprocessing gives images of size {preprocess.image_size}, "
            f"but the model takes {arch.image_size}"
        )
    if len(preprocess.mean) != arch.in_channels:
        raise ValueError(
            f"preprocessing gives {len(preprocess.mean)} channels, but the model takes {arch.in_channels}"
        )
    if preprocess.labels and len(preprocess.labels) != arch.num_classes:
        raise ValueError(
            f"{len(preprocess.labels)} labels do not match a model with {arch.num_classes} classes"
        )
    if plan is None:
        return
    if (len(plan.embed), tuple(block.widths for block in plan.blocks)) != (
        arch.embed_dim,
        unmerged(arch).blocks,
    ):
        raise ValueError("the plan does not belong to this model: their widths differ")


def _weights(model: ViT, half: bool) -> dict[str, Tensor]:
    dtype = torch.float16 if half else torch.float32
    weights = {}
    for name, value in model.state_dict().items():
        own = torch.float32 if name.endswith(IN_FULL) else dtype
        weights[name] = value.detach().to("cpu", own).contiguous()
        if not bool(weights[name].isfinite().all()):
            advice = "; save it in float32" if half and bool(value.isfinite().all()) else ""
            raise ValueError(f"{name} contains values that are not finite in {dtype}{advice}")
    return weights
