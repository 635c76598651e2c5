"""Write files safely: replace them atomically, append whole lines, detect full disks."""

from __future__ import annotations

import errno
import os
import shutil
from contextlib import suppress
from pathlib import Path


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
