"""Paths that a user wrote, and files that others wrote: both are checked before they are used.

A process may be limited to some folders, as an app that serves others is: `$PRUNESCOPE_ONLY` names them,
separated as in `$PATH`, and the processes it starts inherit them. Then no path outside them is used, and the
message is the same whether or not anything is there.
"""

from __future__ import annotations

import errno
import os
import stat
from functools import cache
from pathlib import Path
from typing import BinaryIO

LIMIT = "PRUNESCOPE_ONLY"  # the environment variable
MOST_SHOWN = 80  # characters of a path in an error message

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


class NotAllowedError(ValueError):
    """A path is outside of the folders to which this process is limited; the message does not tell more."""


def is_bare_name(text: str) -> bool:
    """Whether a text names no folder, as the name of a model does; it could be a file in this one, too."""
    return Path(text).name == text and text not in ("", ".", "..")


def user_path(text: str | Path, name: str = "the path") -> Path:
    """The file or folder that a user named; `~` and `~user` are expanded. It need not exist.

    Raises:
        ValueError: no file can have this path; the sentence begins with `name`.
    """
    written = str(text)
    if not written.strip():
        raise ValueError(f"{name} is empty: give the path of a file or folder")
    shown = f"{name} {quoted(written)}"
    if "\0" in written:
        raise ValueError(f"{shown} contains a null byte, which no path can")
    try:
        written.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{shown} is not UTF-8 text: rename the file or folder") from error
    if written.startswith("~") and allowed_folders() is not None:  # else it would tell which users there are
        raise NotAllowedError(_outside(shown))
    try:
        path = Path(written).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{shown} begins with ~, but that user or home folder is not known here") from error
    if not is_allowed(path):
        raise NotAllowedError(_outside(shown))
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        pass  # a new file or folder; whoever wants to read it says that it is not there
    except OSError as error:  # a name that is too long, links that lead in a circle, no permission
        raise ValueError(f"{shown} cannot be used: {error.strerror}") from error
    return path


def allowed_folders() -> tuple[Path, ...] | None:
    """The folders to which this process is limited; None if it may use any path."""
    text = os.environ.get(LIMIT)
    return None if text is None else _folders(text)


@cache
def _folders(text: str) -> tuple[Path, ...]:
    return tuple(absolute(Path(folder)) for folder in text.split(os.pathsep) if folder)


def may_be_path(text: str) -> bool:
    """Whether the name of a model may be taken for a path, too: not a bare one in a limited process.

    Looking whether it is a folder would tell what lies in the folder that the process runs in.
    """
    return allowed_folders() is None or not is_bare_name(text)


def is_allowed(path: Path) -> bool:
    """Whether this process may use a path: always, unless it is limited to folders that do not hold it."""
    folders = allowed_folders()
    if folders is None:
        return True
    try:
        real = absolute(path)
    except (OSError, ValueError):
        return False
    return any(real.is_relative_to(folder) for folder in folders)


def _outside(shown: str) -> str:
    return f"{shown} is outside of the folders that may be opened here: choose a path inside one of them"


def is_file(path: Path) -> bool:
    """Whether there is a regular file at this path; False for a path that cannot be looked at."""
    return stat.S_ISREG(_mode(path))


def is_folder(path: Path) -> bool:
    """Whether there is a folder at this path; False for a path that cannot be looked at."""
    return stat.S_ISDIR(_mode(path))


def is_there(path: Path) -> bool:
    """Whether there is anything at this path; False for a path that cannot be looked at."""
    return _mode(path) != 0


def _mode(path: Path) -> int:
    """The kind of what is at a path, 0 if nothing is; `Path.is_file` and the like raise for some paths."""
    try:
        return path.stat().st_mode if is_allowed(path) else 0
    except (OSError, ValueError):
        return 0


def absolute(path: Path) -> Path:
    """The path from the root, links followed as far as they lead; unlike `Path.resolve`, this never fails."""
    return Path(os.path.realpath(path))


def open_regular(file: Path, most: int | None = None) -> BinaryIO:
    """Open a regular file of at most `most` bytes for reading; pipes and devices might never end.

    Raises:
        OSError: it cannot be opened, is no regular file, or is larger.
    """
    if not is_allowed(file):
        raise PermissionError(errno.EACCES, "it is outside of the folders that may be opened here", str(file))
    _require_regular(file.stat(), file)  # before it is opened, which alone can have an effect on a device
    stream = os.fdopen(os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    try:
        found = os.fstat(stream.fileno())
        _require_regular(found, file)
        if most is not None and found.st_size > most:
            raise _too_large(file, found.st_size, most)
    except BaseException:
        stream.close()
        raise
    return stream


def read_regular(file: Path, most: int) -> bytes:
    """The content of a regular file of at most `most` bytes.

    Raises:
        OSError: as `open_regular`.
    """
    with open_regular(file, most) as stream:
        content = stream.read(most + 1)  # some files, as those in /proc, are larger than they say
    if len(content) > most:
        raise _too_large(file, len(content), most)
    return content


def _require_regular(found: os.stat_result, file: Path) -> None:
    if not stat.S_ISREG(found.st_mode):
        kind = _KINDS.get(stat.S_IFMT(found.st_mode), "something else")
        raise OSError(errno.EINVAL, f"it is {kind}, not a regular file", str(file))


def _too_large(file: Path, size: int, most: int) -> OSError:
    return OSError(errno.EFBIG, f"it is too large: {size:,} bytes, at most {most:,} are read", str(file))


def quoted(text: str) -> str:
    """A path as it stands in a message: in quotes, cut, and with control characters written as escapes."""
    return repr(text if len(text) <= MOST_SHOWN else f"{text[: MOST_SHOWN - 1]}…")
