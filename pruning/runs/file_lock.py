"""Locks that a process holds for as long as it lives: they also tell whether it still does.

A number of a process is used again by others; a lock goes with its process, however that ends.
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

PATIENCE = 1.0  # seconds: a reader that asks whether a lock is held holds it for a moment itself
_PAUSE = 0.02

_held: set[int] = set()


@cache
def _let_go_in_children() -> None:
    """See to it, once, that a forked child, as of a data loader, does not keep its parent's locks alive."""
    os.register_at_fork(after_in_child=_close_held)


def _close_held() -> None:
    for handle in _held:
        with suppress(OSError):
            os.close(handle)
    _held.clear()


class FileLock:
    """An exclusive lock on a file, which stays when the lock goes; held by one process at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._handle: int | None = None

    def take(self, patience: float = PATIENCE) -> bool:
        """Take the lock; False where somebody else holds it, after `patience` seconds.

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
        """Hold on to the lock that the process which started this one took for it.

        Raises:
            ValueError: that handle is not one of this file.
        """
        try:
            same = os.path.samestat(os.fstat(handle), self.path.stat())
        except OSError:
            same = False
        if not same:
            raise ValueError(f"handle {handle} is not a lock on {self.path}; leave out --lock-handle")
        os.set_inheritable(handle, False)
        self._keep(handle)

    def handle(self) -> int:
        """What a started process takes the lock over by.

        Raises:
            ValueError: the lock is not held.
        """
        if self._handle is None:
            raise ValueError(f"the lock {self.path} is not held")
        return self._handle

    def close(self) -> None:
        """Let go. A process that took the lock over still holds it: nothing is unlocked, only closed."""
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
        _let_go_in_children()
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
    """Whether a living process holds the lock on this file; writes nothing, and asks no lock for long."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return False  # no such file, or none that may be looked at
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except OSError as error:
        return error.errno in (errno.EWOULDBLOCK, errno.EACCES)
    finally:
        os.close(handle)
