"""Saves a model as a bundle: a folder that loads with torch and safetensors, without this project."""

from __future__ import annotations

import io
import json
import shutil
import uuid
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from analysis import vit
from analysis.preprocess import Preprocess
from analysis.vit import ViT
from pruning.card import card, without_places
from pruning.plan import Plan

REQUIRED = ("model.safetensors", "architecture.json", "preprocess.json")
EXPORTS = ("model.onnx", "model.onnx.data", "model.pt2")  # what may lie beside a bundle's own files
FILES = (*REQUIRED, "plan.json", "report.json", "README.md", "vit.py", "example.py", *EXPORTS)

_EXAMPLE = Path(__file__).parent / "example.py"
_VIT = Path(vit.__file__)


class OutputError(OSError):
    """A folder or file that could not be written; its message is one sentence for the user."""


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
) -> Path:
    """Save a model so that it loads anywhere; all of the folder appears at once, or nothing.

    `name` is the model that was loaded, for the card; `report` the figures before and after, as
    `prune --json` names them. `half` stores float16, which loading casts back. With `overwrite`
    a bundle at that place is replaced as soon as the new one is complete.

    Raises:
        ValueError: the folder holds something, or model, preprocessing and plan do not fit.
        OutputError: the disk is full, or the place cannot be written to.
    """
    with staged_folder(folder, overwrite=overwrite) as stage:
        write_files(stage, model, preprocess, name=name, report=report, plan=plan, half=half)
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
) -> None:
    """Write a bundle's files into an existing folder, one after the other.

    Raises:
        ValueError: model, preprocessing and plan do not fit, or the weights are not finite.
    """
    _require_fit(model, preprocess, plan)
    pruned = plan is not None or "method" in report
    report = without_places({"model": name} | dict(report))  # a bundle saved again knows its origin
    texts = {
        "architecture.json": model.arch.to_json(),
        "preprocess.json": preprocess.to_json(),
        "report.json": json.dumps(report, indent=2, allow_nan=False) + "\n",
        "README.md": card(name, model.arch, preprocess, report, pruned=pruned),
        "vit.py": _VIT.read_text(encoding="utf-8"),
        "example.py": _EXAMPLE.read_text(encoding="utf-8"),
    }
    if plan is not None:
        texts["plan.json"] = plan.to_json()
    for file, text in texts.items():
        (folder / file).write_text(text, encoding="utf-8", newline="\n")
    weights = folder / "model.safetensors"
    save_file(_weights(model, half), weights, metadata={"format": "pt"})
    shutil.copymode(folder / "README.md", weights)  # safetensors lets nobody but the owner read


def is_bundle(folder: Path) -> bool:
    """Whether a folder holds what a bundle cannot do without."""
    return all((folder / name).is_file() for name in REQUIRED)


def zip_bundle(folder: Path) -> bytes:
    """A bundle as a zip with one folder in it, for downloading; equal files give equal bytes.

    Raises:
        ValueError: the folder is not a bundle.
    """
    if not is_bundle(folder):
        raise ValueError(f"{folder} is not a bundle: it needs {', '.join(REQUIRED)}")
    packed = io.BytesIO()
    # weights hardly compress, and stored bytes do not depend on the version of zlib
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(FILES):
            if (folder / name).is_file():
                entry = zipfile.ZipInfo(f"{folder.resolve().name}/{name}")  # dated 1980, always
                entry.external_attr = 0o644 << 16
                archive.writestr(entry, (folder / name).read_bytes())
    return packed.getvalue()


@contextmanager
def staged_folder(folder: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """An empty folder to write into, which takes the place of `folder` if all goes well.

    Raises:
        ValueError: `folder` is a file, or holds something that must not be replaced.
        OutputError: writing failed; nothing is left behind, and what was there stays.
    """
    target = folder.resolve()
    with _stage(target, target.parent) as stage:
        require_free(target, overwrite)
        stage.mkdir()
        yield stage
        _swap(stage, target)


@contextmanager
def staged_files(folder: Path) -> Iterator[Path]:
    """An empty folder to write into, whose files move into `folder` if all goes well.

    Files of the same names are replaced.

    Raises:
        ValueError: `folder` is a file.
        OutputError: writing failed; nothing is left behind, and what was there stays.
    """
    target = folder.resolve()
    with _stage(target, target) as stage:
        stage.mkdir()
        yield stage
        for file in sorted(stage.iterdir()):
            file.replace(target / file.name)


@contextmanager
def _stage(target: Path, parent: Path) -> Iterator[Path]:
    """The path of a temporary folder in `parent`, and what every way of writing has in common."""
    stage = parent / f".{target.name}-{uuid.uuid4().hex[:8]}.part"
    missing: list[Path] = []
    try:
        missing = _missing_folders(parent)
        parent.mkdir(parents=True, exist_ok=True)
        yield stage
    except OutputError:
        raise
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OutputError(f"{target} could not be written: {reason}; nothing was changed") from error
    finally:
        shutil.rmtree(stage, ignore_errors=True)
        for folder in missing:
            with suppress(OSError):  # one that got its content stays
                folder.rmdir()


def _missing_folders(folder: Path) -> list[Path]:
    """A folder and its parents as far as they are not there yet, innermost first."""
    missing = []
    for path in (folder, *folder.parents):
        if path.is_dir():
            break
        if path.exists():
            raise ValueError(f"{folder} cannot be a folder because {path} is a file; choose another place")
        missing.append(path)
    return missing


def require_free(folder: Path, overwrite: bool = False) -> None:
    """Check that a bundle may be written to `folder`.

    Raises:
        ValueError: it is a file, or holds something that must not be replaced.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ValueError(f"{folder} is a file; choose a folder that does not exist yet")
    content = sorted(path.name for path in folder.iterdir())
    if not content:
        return
    if not overwrite:
        raise ValueError(f"{folder} already holds {content[0]}; choose a folder that does not exist yet")
    foreign = [name for name in content if name not in (*FILES, "__pycache__")]
    if foreign or not is_bundle(folder):
        what = f"holds {foreign[0]}, which is no part of a bundle" if foreign else "is not a bundle"
        raise ValueError(f"{folder} {what}, so it is not overwritten; choose another folder")


def _swap(stage: Path, target: Path) -> None:
    """Put `stage` in the place of `target`, which stays until then."""
    if not target.exists():
        stage.rename(target)
        return
    old = stage.with_suffix(".old")
    target.rename(old)
    try:
        stage.rename(target)
    except BaseException:
        old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _require_fit(model: ViT, preprocess: Preprocess, plan: Plan | None) -> None:
    arch = model.arch
    if preprocess.image_size != arch.image_size:
        raise ValueError(
            f"the preprocessing gives images of {preprocess.image_size}, the model takes {arch.image_size}"
        )
    if len(preprocess.mean) != arch.in_channels:
        raise ValueError(
            f"the preprocessing gives {len(preprocess.mean)} channels, the model takes {arch.in_channels}"
        )
    if preprocess.labels and len(preprocess.labels) != arch.num_classes:
        raise ValueError(f"{len(preprocess.labels)} labels do not fit a model of {arch.num_classes} classes")
    if plan is None:
        return
    if (len(plan.embed), tuple(block.widths for block in plan.blocks)) != (arch.embed_dim, arch.blocks):
        raise ValueError("the plan does not lead to this model: their widths differ")


def _weights(model: ViT, half: bool) -> dict[str, Tensor]:
    dtype = torch.float16 if half else torch.float32
    weights = {}
    for name, value in model.state_dict().items():
        weights[name] = value.detach().to("cpu", dtype).contiguous()
        if not bool(weights[name].isfinite().all()):
            advice = "; save it in float32" if half and bool(value.isfinite().all()) else ""
            raise ValueError(f"{name} holds values that are not finite in {dtype}{advice}")
    return weights
