"""File locks that a process holds while it lives, which also show whether it still does.

A process id can be reused by another process; a lock is released when its process ends, for whatever reason.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import TracebackType

from pruning.files import OutputError

PATIENCE = 1.0  # seconds: a reader that checks whether a lock is held holds it itself for a moment
_PAUSE = 0.02

_held: set[int] = set()


@cache
def _release_in_children() -> None:
    """Register, once, that forked children (such as data loader workers) close their parent's locks."""
    os.register_at_fork(after_in_child=_close_held)


def _close_held() -> None:
    for handle in _held:
        with suppress(OSError):
            os.close(handle)
    _held.clear()


class FileLock:
    """An exclusive lock on a file, held by one process at a time; releasing it leaves the file in place."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._handle: int | None = None

    def take(self, patience: float = PATIENCE) -> bool:
        """Acquire the lock; False if another process still holds it after `patience` seconds.

        Raises:
            OutputError: the file cannot be opened or locked.
        """
        handle: int | None = None
        try:
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
            if _locked_within(handle, patience):
                self._keep(handle)
                return True
        except OSError as error:
            if handle is not None:
                os.close(handle)
            raise OutputError(f"{self.path} could not be locked: {error.strerror or error}") from error
        os.close(handle)
        return False

    def adopt(self, handle: int) -> None:
        """Take over the lock that the process which started this one acquired for it.

        Raises:
            ValueError: the handle does not belong to this file.
        """
        try:
            same = os.path.samestat(os.fstat(handle), self.path.stat())
        except (OSError, OverflowError):
            same = False
        if not same:
            raise ValueError(f"handle {handle} is not a lock on {self.path}; omit --lock-handle")
        os.set_inheritable(handle, False)
        self._keep(handle)

    def handle(self) -> int:
        """The file descriptor by which a started process takes over the lock.

        Raises:
            ValueError: the lock is not held.
        """
        if self._handle is None:
            raise ValueError(f"the lock {self.path} is not held")
        return self._handle

    def close(self) -> None:
        """Release the lock. A process that took it over keeps it: the file is closed, not unlocked."""
        if self._handle is not None:
            _held.discard(self._handle)
            os.close(self._handle)
            self._handle = None

    def __enter__(self) -> FileLock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _keep(self, handle: int) -> None:
        _release_in_children()
        _held.add(handle)
        self._handle = handle


def _locked_within(handle: int, patience: float) -> bool:
    end = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
        if time.monotonic() >= end:
            return False
        time.sleep(_PAUSE)


def is_held(path: Path) -> bool:
    """Whether a live process holds the lock on this file; writes nothing, and locks for a moment at most."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a named pipe would wait for a writer
    except (OSError, ValueError):
        return False  # no such file, not readable, or no name of a file
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except OSError as error:
        return error.errno in (errno.EWOULDBLOCK, errno.EACCES)
    finally:
        os.close(handle)
