"""Writes a kit: a new folder, or a zip with one folder in it."""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from analysis.measure import cost
from analysis.paths import is_there
from analysis.vit import Architecture
from pruning.bundle import require_new_folder, staged_files, staged_folder
from pruning.kit.graphs import Graphs
from pruning.kit.layout import Entry, entries, manifest
from pruning.progress import Progress, quiet

KIT, PROGRAM, README = "kit.json", "benchmark.py", "README.txt"
_HERE = Path(__file__).parent


def require_new_kit(out: Path, zipped: bool) -> None:
    """Check before the work that a kit can be written there.

    Raises:
        ValueError: something lies there, or it is no place for a kit.
        OutputError: nothing can be written there.
    """
    if not zipped:
        require_new_folder(out)
    elif out.suffix != ".zip":
        raise ValueError(f"with --zip, --out must be a file that ends in .zip, got {out}")
    elif is_there(out):
        raise ValueError(f"{out} exists, so it is not overwritten; choose another file")
    else:
        require_new_folder(out)  # the place must take a new file


def write_kit(
    dense: Architecture,
    smaller: Sequence[tuple[str, Architecture]],
    out: Path,
    *,
    align: int = 8,
    int8: bool = False,
    zipped: bool = False,
    progress: Progress = quiet,
) -> tuple[Entry, ...]:
    """Write a kit of a dense model and of smaller ones; returns what it times.

    Raises:
        ValueError: something lies there already, or align is out of its range.
        ExportError: torch gives no program.
        OutputError: it could not be written.
    """
    require_new_kit(out, zipped)
    found = entries(dense, smaller, align, int8)
    if zipped:
        with tempfile.TemporaryDirectory() as folder, staged_files(out.parent) as stage:
            fill(Path(folder), dense, found, progress)
            _pack(Path(folder), out.stem, stage / out.name)
    else:
        with staged_folder(out) as stage:
            fill(stage, dense, found, progress)
    return found


def fill(folder: Path, dense: Architecture, found: Sequence[Entry], progress: Progress = quiet) -> None:
    """Write the files of a kit into an empty folder.

    Raises:
        ExportError: torch gives no program.
        OSError: a file could not be written.
    """
    files = [f"{number:03}-{entry.kind}.onnx" for number, entry in enumerate(found)]
    with Graphs(folder) as graphs:
        for done, (entry, file) in enumerate(zip(found, files, strict=True)):
            progress("Writing the kit", done / len(found))
            graphs.write(entry, file)
    progress("Writing the kit", 1.0)
    (folder / KIT).write_text(manifest(dense, found, files), encoding="utf-8")
    (folder / PROGRAM).write_text(
        (_HERE / PROGRAM).read_text(encoding="utf-8"), encoding="utf-8", newline="\n"
    )
    megabytes = sum(cost(entry.arch).bytes / (4 if entry.int8 else 1) for entry in found) / 2**20
    readme = (_HERE / README).read_text(encoding="utf-8").replace("@MEGABYTES@", f"{max(1, megabytes):,.0f}")
    (folder / README).write_text(readme, encoding="utf-8", newline="\n")


def _pack(folder: Path, name: str, target: Path) -> None:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.iterdir()):
            entry = zipfile.ZipInfo(f"{name}/{file.name}")  # always dated 1980
            entry.external_attr, entry.compress_type = 0o644 << 16, zipfile.ZIP_DEFLATED
            archive.writestr(entry, file.read_bytes())
