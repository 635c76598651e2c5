"""Write files safely: replace them atomically, append whole lines, detect full disks."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol


class OutputError(OSError):
    """A folder or file could not be written; the message is one sentence for the user."""


FULL = (errno.ENOSPC, errno.EDQUOT)


def replace_text(path: Path, text: str) -> None:
    """Replace a small file atomically: readers see either the old text or the new.

    Raises:
        OSError: the file could not be written; the old one is unchanged, and no temporary file is left.
    """
    partial = path.with_name(f".{path.name}.part")
    try:
        with partial.open("w", encoding="utf-8", newline="\n") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(path)
    except BaseException:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


class HasJson(Protocol):
    """A value that has a JSON format."""

    def to_json(self) -> str:
        """The text of a file that holds it."""


def save_json(value: HasJson, file: Path) -> None:
    """Replace a small file atomically by one that holds a value.

    Raises:
        OSError: as `replace_text`.
    """
    replace_text(file, value.to_json())


Seen = tuple[int, int, int, int]  # device, number, time and size of a file or folder


def seen(path: Path) -> Seen | None:
    """What tells a file or folder from another one in its place; None if there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    folder = stat.S_ISDIR(found.st_mode)  # whose time and size change with what lies in it
    return found.st_dev, found.st_ino, 0 if folder else found.st_mtime_ns, 0 if folder else found.st_size


def move_over(source: Path, path: Path, before: Seen | None) -> None:
    """Rename a file or folder to a path, if what lies there is still what was seen `before`.

    Of several processes that do so at once, one succeeds. An existing folder must be empty.

    Raises:
        OutputError: something else lies there by now.
        OSError: it could not be renamed.
    """
    try:
        if before is None:
            _move_to_nothing(source, path)
            return
        with unchanged(path, before):
            source.replace(path)
    except FileExistsError as error:
        raise written_meanwhile(path) from error


@contextmanager
def unchanged(path: Path, before: Seen | None) -> Iterator[None]:
    """Inside the `with`, no other process that asks for the same may exchange what lies at this path.

    Raises:
        OutputError: something else lies there than was seen `before`.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError as error:
        raise written_meanwhile(path) from error
    try:
        with suppress(OSError):  # disks without locks: what is left is a moment in which two may write
            fcntl.flock(handle, fcntl.LOCK_EX)
        if seen(path) != before:
            raise written_meanwhile(path)
        yield
    finally:
        os.close(handle)


def _move_to_nothing(source: Path, path: Path) -> None:
    if source.is_dir():
        try:
            source.rename(path)  # fails where a folder has appeared that holds something
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise FileExistsError(error.errno, str(error), str(path)) from error
            raise
        return
    try:
        os.link(source, path)  # fails where a file has appeared, which `rename` would replace
    except FileExistsError:
        raise
    except OSError as error:  # a disk without hard links
        if path.exists():
            raise FileExistsError(error.errno, str(error), str(path)) from error
        source.rename(path)
    source.unlink(missing_ok=True)


def written_meanwhile(path: Path) -> OutputError:
    """The error that says another process was first."""
    return OutputError(
        f"{path} was written by another command in the meantime, so it is left as it is: choose another place"
    )


def make_held_folder(parent: Path, prefix: str, mode: int = 0o777) -> tuple[Path, int]:
    """A new folder for work, `prefix` and a few characters, and the handle that holds the lock on it.

    The lock ends with the handle, at the latest with this process: `sweep_held_folders` then removes it.

    Raises:
        OSError: the folder cannot be made.
    """
    while True:
        folder = parent / f"{prefix}{uuid.uuid4().hex[:8]}.part"
        folder.mkdir(mode=mode)
        handle = _held(folder)
        if handle is not None:
            return folder, handle


def _held(folder: Path) -> int | None:
    """The handle that holds the lock on a new folder; None if another process took it for a leftover."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        swept = not folder.exists()
    except BlockingIOError:
        swept = True  # it is being removed at this moment
    except OSError:
        swept = False  # a disk without locks, where nothing is swept
    if swept:
        os.close(handle)
        return None
    return handle


def sweep_held_folders(parent: Path, prefix: str) -> None:
    """Remove what killed processes of this user left of `make_held_folder`; what is at work stays."""
    with suppress(OSError):
        for folder in parent.iterdir():
            if re.fullmatch(rf"{re.escape(prefix)}[0-9a-f]{{8}}\.part", folder.name):
                _sweep(folder)


def _sweep(folder: Path) -> None:
    with suppress(OSError):  # gone by now, at work, or on a disk without locks
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
            return
        handle = os.open(folder, os.O_RDONLY | os.O_NOFOLLOW)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(handle)


def append_line(path: Path, line: str) -> None:
    """Append a line, on a new line even if a killed process left an incomplete one before it.

    Raises:
        OSError: the line could not be written; the file is unchanged.
    """
    handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        end = os.lseek(handle, 0, os.SEEK_END)
        incomplete = end > 0 and os.pread(handle, 1, end - 1) != b"\n"
        remaining = b"\n" * incomplete + line.encode("utf-8", "replace") + b"\n"
        try:
            while remaining:  # a disk that is nearly full may write only a part
                remaining = remaining[os.write(handle, remaining) :]
        except OSError:
            with suppress(OSError):
                os.truncate(handle, end)
            raise
    finally:
        os.close(handle)


def disk_full(error: BaseException, folder: Path) -> bool:
    """Whether an error was caused by a full disk; libraries often wrap that in errors of their own."""
    cause: BaseException | None = error
    while cause is not None:
        if getattr(cause, "errno", None) in FULL or "No space left" in str(cause):
            return True
        cause = cause.__cause__ or cause.__context__
    if not isinstance(error, OSError | RuntimeError) or "writ" not in str(error):
        return False
    with suppress(OSError):
        return shutil.disk_usage(folder).free < 2**16
    return False
