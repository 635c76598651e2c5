"""Writing files safely: replaced atomically, appended whole, with full disks recognised."""

from __future__ import annotations

import errno
import os
import shutil
from contextlib import suppress
from pathlib import Path


class OutputError(OSError):
    """A folder or file that could not be written; its message is one sentence for the user."""


FULL = (errno.ENOSPC, errno.EDQUOT)


def replace_text(path: Path, text: str) -> None:
    """Replace a small file: whoever reads it finds all of the old text or all of the new.

    Raises:
        OSError: it could not be written; what was there stays, and nothing is left beside it.
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
    """Append a line; what a killed process left of one before stays apart from it.

    Raises:
        OSError: it could not be written; the file is as it was.
    """
    handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        end = os.lseek(handle, 0, os.SEEK_END)
        torn = end > 0 and os.pread(handle, 1, end - 1) != b"\n"
        left = b"\n" * torn + line.encode("utf-8", "replace") + b"\n"
        try:
            while left:  # a disk that is nearly full takes a part
                left = left[os.write(handle, left) :]
        except OSError:
            with suppress(OSError):
                os.truncate(handle, end)
            raise
    finally:
        os.close(handle)


def disk_full(error: BaseException, folder: Path) -> bool:
    """Whether an error comes from a full disk; libraries hide that behind errors of their own."""
    seen: BaseException | None = error
    while seen is not None:
        if getattr(seen, "errno", None) in FULL or "No space left" in str(seen):
            return True
        seen = seen.__cause__ or seen.__context__
    if not isinstance(error, OSError | RuntimeError) or "writ" not in str(error):
        return False
    with suppress(OSError):
        return shutil.disk_usage(folder).free < 2**16
    return False
