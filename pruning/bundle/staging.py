"""Folders and files that are written completely or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from pruning.bundle.layout import require_free
from pruning.files import (
    OutputError,
    Seen,
    make_held_folder,
    move_over,
    seen,
    sweep_held_folders,
    unchanged,
    written_meanwhile,
)

_SHOWN = 40  # characters of the target's name in that of its temporary folder


@contextmanager
def staged_folder(folder: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """An empty folder to write into, which replaces `folder` if no error occurs.

    Raises:
        ValueError: `folder` is a file, or contains something that must not be replaced.
        OutputError: writing failed, or another process has written there meanwhile; nothing is left behind,
            and an existing folder is unchanged.
    """
    target = folder.resolve()
    with _stage(target, target.parent) as stage:
        require_free(target, overwrite)
        before = seen(target) if target.exists() and any(target.iterdir()) else None
        yield stage
        _swap(stage, target, before)


@contextmanager
def staged_files(folder: Path) -> Iterator[Path]:
    """An empty folder to write into, whose files are moved to `folder` if no error occurs.

    Files of the same names are replaced.

    Raises:
        ValueError: `folder` is a file.
        OutputError: writing failed, or another process has written such a file meanwhile; nothing is left
            behind, and existing files are unchanged.
    """
    target = folder.resolve()
    with _stage(target, target) as stage:
        before = {path.name: seen(path) for path in target.iterdir() if path.exists()}
        yield stage
        files = sorted(stage.iterdir())
        for file in files:
            if seen(target / file.name) != before.get(file.name):
                raise written_meanwhile(target / file.name)
        for file in files:
            move_over(file, target / file.name, before.get(file.name))


@contextmanager
def _stage(target: Path, parent: Path) -> Iterator[Path]:
    """A temporary folder in `parent`; removes it and turns write errors into `OutputError`.

    What a killed process left of the same target is removed first.
    """
    stage: Path | None = None
    handle = -1
    missing: list[Path] = []
    try:
        missing = _missing_folders(parent)
        parent.mkdir(parents=True, exist_ok=True)
        prefix = f".{target.name[:_SHOWN]}-"
        sweep_held_folders(parent, prefix)
        stage, handle = make_held_folder(parent, prefix)
        yield stage
    except OutputError:
        raise
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OutputError(f"{target} could not be written: {reason}; nothing was changed") from error
    finally:
        if stage is not None:
            shutil.rmtree(stage, ignore_errors=True)
            os.close(handle)
        for folder in missing:
            with suppress(OSError):  # fails if the folder has content, which is kept
                folder.rmdir()


def _missing_folders(folder: Path) -> list[Path]:
    """Those of a folder and its parents that do not exist yet, innermost first."""
    missing = []
    for path in (folder, *folder.parents):
        if path.is_dir():
            break
        if path.exists():
            raise ValueError(f"{folder} cannot be created because {path} is a file; choose another folder")
        missing.append(path)
    return missing


def _swap(stage: Path, target: Path, before: Seen | None) -> None:
    """Replace `target` by `stage`; if that fails, `target` is restored."""
    if before is None:
        move_over(stage, target, None)
        return
    old = stage.with_suffix(".old")
    with unchanged(target, before):
        target.rename(old)
        try:
            stage.rename(target)
        except BaseException:
            old.rename(target)
            raise
    shutil.rmtree(old, ignore_errors=True)
