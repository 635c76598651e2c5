"""Where a command may write: checked before the work, not after minutes of it."""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from analysis.paths import absolute, is_file, is_folder, is_there
from pruning.bundle.layout import is_bundle, require_free
from pruning.files import OutputError, Seen, move_over, replace_text, seen


def require_new_folder(folder: Path, overwrite: bool = False) -> None:
    """Check that a bundle can be written to `folder`, which is new or empty, or a bundle if `overwrite`.

    Raises:
        ValueError: it holds something, is in use, or is inside a bundle.
        OutputError: it cannot be created there.
    """
    target = absolute(folder)
    require_free(folder, overwrite)
    if target == Path.cwd():
        raise ValueError(f"{target} is the folder that the command runs in; choose a folder inside it")
    if target.is_mount():  # the finished folder is renamed to its place, which a mount point does not allow
        raise ValueError(f"{target} is a mount point; choose a folder inside it")
    _require_outside_bundles(target)
    _require_writable(target, target.parent)


def require_folder_for_files(folder: Path) -> None:
    """Check that files can be added to `folder`, which may exist and may be a bundle.

    Raises:
        ValueError: it is a file, or is inside a bundle.
        OutputError: nothing can be written there.
    """
    target = absolute(folder)
    if is_there(target) and not is_folder(target):
        raise ValueError(f"{folder} is a file; choose a folder")
    _require_outside_bundles(target)
    _require_writable(target, target)


@dataclass(frozen=True)
class FreeFile:
    """A file that may be written, and what lay there when that was checked."""

    file: Path
    before: Seen | None

    def write(self, text: str) -> None:
        """Write it; it appears at once, in the place of what lay there before.

        Raises:
            OutputError: it could not be written, or another process has written it meanwhile.
        """
        stage = self.file.with_name(f".{uuid.uuid4().hex[:12]}.part")
        try:
            replace_text(stage, text)
            move_over(stage, self.file, self.before)
        except OutputError:
            raise
        except OSError as error:
            raise OutputError(f"{self.file} could not be written: {error.strerror or error}") from error
        finally:
            with suppress(OSError):
                stage.unlink(missing_ok=True)


def require_file(file: Path, what: str, is_one: Callable[[Path], bool]) -> FreeFile:
    """Check that `file` can be written: it is new, empty, or an earlier output, `what`, by `is_one`.

    Raises:
        ValueError: it is something else, or is inside a bundle, or its folder does not exist.
        OutputError: nothing can be written to its folder.
    """
    target = absolute(file)
    before = seen(target) if is_there(target) else None
    if not is_folder(target.parent):
        raise ValueError(f"{target.parent} does not exist; choose an existing folder")
    if is_folder(target):
        raise ValueError(f"{file} is a folder; choose a file")
    if is_there(target) and not (is_file(target) and (not target.stat().st_size or is_one(target))):
        raise ValueError(f"{file} exists and is no {what}, so it is not overwritten; choose another file")
    _require_outside_bundles(target)
    _require_writable(target, target.parent)
    return FreeFile(target, before)


def _require_outside_bundles(target: Path) -> None:
    inside = next((place for place in target.parents if is_bundle(place)), None)
    if inside is not None:
        raise ValueError(f"{target} is inside the bundle {inside}; choose a place outside of it")


def _require_writable(target: Path, folder: Path) -> None:
    """Try to write into a folder, or into the nearest above it that exists; nothing is left there."""
    nearest = next(place for place in (folder, *folder.parents) if is_there(place))
    try:
        with tempfile.TemporaryDirectory(prefix=".", suffix=".part", dir=nearest):
            pass
    except NotADirectoryError as error:
        raise ValueError(
            f"{target} cannot be created because {nearest} is a file; choose another folder"
        ) from error
    except OSError as error:
        raise OutputError(f"{target} could not be written: {error.strerror or error}") from error
