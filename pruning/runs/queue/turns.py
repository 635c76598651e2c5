"""Whose turn it is: runs wait for a free slot of their device, and whoever has waited longest goes first.

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

from analysis.paths import LIMIT, is_file
from pruning.runs import folder as runs
from pruning.runs.file_lock import FileLock, is_held
from pruning.runs.status import Status
from pruning.seeding import fingerprint

POLL = 0.5  # seconds

Queue = list[tuple[Path, Status]]  # run folders and what they say, longest waiting first


def device() -> str:
    """The name of the device that a run in this process uses: cuda-..., mps or cpu."""
    if torch.cuda.is_available():
        return "cuda-" + re.sub(r"\W+", "-", os.environ.get("CUDA_VISIBLE_DEVICES") or "0")
    return "mps" if torch.backends.mps.is_available() else "cpu"


def limits() -> str:
    """What tells processes that may open different folders apart, as part of a file's name."""
    text = os.environ.get(LIMIT)
    return "" if text is None else f"-{fingerprint(text, os.environ.get('HF_HUB_OFFLINE'))}"


def queued_runs(root: Path) -> Queue:
    """The runs that wait for their turn, longest first, with or without a process."""
    found = []
    for path in runs.run_folders(root):
        status = runs.read_status(path) if is_file(path / runs.STATUS) else None
        if status is not None and status.state == "queued" and runs.alive(path, status):
            found.append((path, status))
    return sorted(found, key=lambda entry: (entry[1].queued, entry[0].name))


def turn_has_come(folder: Path, mine: Status, queue: Queue) -> bool:
    """Whether a run without a process would get a slot at once if it had one."""
    free = [slot for slot, file in enumerate(_slots(folder, mine)) if not is_held(file)]
    if not free or _longer_waiting(folder, mine, queue):
        return False
    # the processes that have started, but have not taken their slots yet
    others = [
        other
        for path, other in _rivals(folder, mine, queue)
        if runs.is_recent(other.beat) and is_held(path / runs.LOCK)
    ]
    return len(free) > sum(other.at_once > free[0] for other in others)


@contextmanager
def wait_for_slot(folder: Path, status: Callable[[], Status], waiting: Callable[[], None]) -> Iterator[None]:
    """Wait for a slot and hold it inside the `with`: at most `at_once` runs of this root share the device.

    `waiting` is called repeatedly until then, and may raise. A slot is freed when its process ends.

    Raises:
        OutputError: the lock files beside the run folder cannot be written.
    """
    while True:
        mine = status()
        for file in _slots(folder, mine):
            lock = FileLock(file)
            if not _longer_waiting(folder, mine, queued_runs(folder.parent)) and lock.take(patience=0):
                with lock:
                    yield
                return
        waiting()
        time.sleep(POLL)


def _slots(folder: Path, mine: Status) -> list[Path]:
    return [folder.parent / f".{mine.host}-{mine.device}-{number}.lock" for number in range(mine.at_once)]


def _longer_waiting(folder: Path, mine: Status, queue: Queue) -> bool:
    """Whether another live run has waited longer for a slot of the same device."""
    return any(
        (other.queued, path.name) < (mine.queued, folder.name)
        and other.at_once >= mine.at_once
        # a run that hangs must not block the queue
        and (other.waiting or runs.is_recent(other.beat))
        for path, other in _rivals(folder, mine, queue)
    )


def _rivals(folder: Path, mine: Status, queue: Queue) -> Queue:
    """The other runs in a queue that want the same device."""
    return [
        (path, other)
        for path, other in queue
        if path != folder and other.host in (None, mine.host) and other.device in (None, mine.device)
    ]
