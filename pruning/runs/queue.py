"""One run at a time for each device: the others wait for their turn, the longest waiting first."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from pruning.runs import folder as runs
from pruning.runs.file_lock import FileLock, is_held
from pruning.runs.status import Status

POLL = 0.5  # seconds


def device() -> str:
    """The device that a run in this process computes on, as a word."""
    if torch.cuda.is_available():
        return "cuda-" + re.sub(r"\W+", "-", os.environ.get("CUDA_VISIBLE_DEVICES") or "0")
    return "mps" if torch.backends.mps.is_available() else "cpu"


@contextmanager
def wait_for_turn(folder: Path, status: Callable[[], Status], ask: Callable[[], None]) -> Iterator[None]:
    """Inside the `with`, at most `at_once` runs of this root compute on this device of this machine.

    `ask` is called while waiting, and may raise. The lock of a turn goes with its process.

    Raises:
        OutputError: the lock files beside the run folder cannot be written.
    """
    while True:
        mine = status()
        for number in range(mine.at_once):
            lock = FileLock(folder.parent / f".{mine.host}-{mine.device}-{number}.lock")
            if not _somebody_before(folder, mine) and lock.take(patience=0):
                with lock:
                    yield
                return
        ask()
        time.sleep(POLL)


def _somebody_before(folder: Path, mine: Status) -> bool:
    """Whether a living run waits for the same turn, and has for longer."""
    for path in folder.parent.iterdir():
        if path == folder or not (path / runs.STATUS).is_file():
            continue
        other = runs.read_status(path)
        if (
            other.state == "queued"
            and (other.queued, path.name) < (mine.queued, folder.name)
            and other.host in (None, mine.host)
            and other.device in (None, mine.device)
            and other.at_once >= mine.at_once
            and time.time() - other.beat < runs.STALE  # one that hangs holds nobody up
            and is_held(path / runs.LOCK)
        ):
            return True
    return False
