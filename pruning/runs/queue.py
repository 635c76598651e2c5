"""The queue of a device: runs wait for a free slot, and the one that has waited longest goes first.

A device has one slot, or more if runs allow it (`at_once`). A slot is a lock file beside the run folders.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from analysis.paths import is_file
from pruning.runs import folder as runs
from pruning.runs.file_lock import FileLock, is_held
from pruning.runs.status import Status

POLL = 0.5  # seconds


def device() -> str:
    """The name of the device that a run in this process uses: cuda-..., mps or cpu."""
    if torch.cuda.is_available():
        return "cuda-" + re.sub(r"\W+", "-", os.environ.get("CUDA_VISIBLE_DEVICES") or "0")
    return "mps" if torch.backends.mps.is_available() else "cpu"


@contextmanager
def wait_for_slot(folder: Path, status: Callable[[], Status], waiting: Callable[[], None]) -> Iterator[None]:
    """Wait for a slot and hold it inside the `with`: at most `at_once` runs of this root share the device.

    `waiting` is called repeatedly until then, and may raise. A slot is freed when its process ends.

    Raises:
        OutputError: the lock files beside the run folder cannot be written.
    """
    while True:
        mine = status()
        for number in range(mine.at_once):
            lock = FileLock(folder.parent / f".{mine.host}-{mine.device}-{number}.lock")
            if not _longer_waiting(folder, mine) and lock.take(patience=0):
                with lock:
                    yield
                return
        waiting()
        time.sleep(POLL)


def _longer_waiting(folder: Path, mine: Status) -> bool:
    """Whether another live run has waited longer for a slot of the same device."""
    for path in folder.parent.iterdir():
        if path == folder or not is_file(path / runs.STATUS):
            continue
        other = runs.read_status(path)
        if (
            other.state == "queued"
            and (other.queued, path.name) < (mine.queued, folder.name)
            and other.host in (None, mine.host)
            and other.device in (None, mine.device)
            and other.at_once >= mine.at_once
            and time.time() - other.beat < runs.STALE  # a run that hangs must not block the queue
            and is_held(path / runs.LOCK)
        ):
            return True
    return False
