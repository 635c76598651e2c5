"""The queue: runs that wait have no process, and one dispatcher for each device starts them in turn.

A run whose turn it is when it is started gets its process at once. Otherwise its status says that it is
waiting, and a dispatcher is started if there is none: a process that looks at the folder of runs, starts
the runs whose turn has come, and ends when none is waiting. It holds a lock while it lives, which is how
others see that the waiting runs are not forgotten. Its runs inherit what it may open (`analysis.paths`), so
that there is one dispatcher for each device and each such limit.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from pruning.files import OutputError, replace_text
from pruning.runs import folder as runs
from pruning.runs.file_lock import FileLock
from pruning.runs.folder import Run
from pruning.runs.queue.spawn import spawn_dispatcher, spawn_run
from pruning.runs.queue.turns import POLL, device, limits, queued_runs, turn_has_come
from pruning.runs.status import Status, this_host

MOST_WAITING = 100  # runs in one folder
_READING = 0.3  # seconds: longer than a reader holds a lock that it looks at
_PATIENCE = 30.0  # seconds: starting a process takes far less


def require_short_queue(root: Path, most: int = MOST_WAITING) -> None:
    """Check that there is room in the queue for another run.

    Raises:
        ValueError: too many runs are waiting.
    """
    number = sum(status.waiting for _, status in queued_runs(root))
    if number >= most:
        raise ValueError(
            f"{number} runs are waiting in {root} already, and at most {most} may: cancel some of them, or "
            "start this run later"
        )


def start_or_queue(folder: Path, lock: FileLock) -> None:
    """Start the process of a new run if its turn has come, else leave it to the dispatcher.

    The caller holds the folder's lock, and its status says that it is queued.

    Raises:
        OSError: the folder of runs cannot be written to, or no process could be started.
    """
    with _one_at_a_time(folder.parent):
        status = replace(runs.read_status(folder), device=device(), limits=limits())
        if turn_has_come(folder, status, queued_runs(folder.parent)):
            spawn_run(folder, lock)
            return
        replace_text(folder / runs.STATUS, replace(status, waiting=True).to_json())
        with FileLock(runs.dispatcher_lock(folder.parent, status)) as dispatcher:
            if dispatcher.take(_READING):
                spawn_dispatcher(folder.parent, dispatcher)


def drop_from_queue(run: Run) -> bool:
    """Cancel a run that waits without a process; False if it has one.

    Raises:
        OSError: its status cannot be written.
    """
    with FileLock(run.folder / runs.LOCK) as lock:
        if not run.status.waiting or not lock.take():
            return False
        status = runs.read_status(run.folder)
        if not (status.waiting and status.state == "queued"):
            return False
        ended = replace(status, state="cancelled", waiting=False, ended=time.time())
        replace_text(run.folder / runs.STATUS, ended.to_json())
        return True


def run_dispatcher(root: Path, handle: int) -> None:
    """Start the waiting runs of this device in turn, until none is left; `handle` is the dispatcher's lock.

    Raises:
        ValueError: the handle does not belong to the dispatcher's lock.
    """
    mine = runs.dispatcher_lock(root, _own_status())
    with FileLock(mine) as lock:
        lock.adopt(handle)
        while not _finished(root, lock):
            with suppress(OSError):
                os.utime(mine)  # for other machines that share the disk, but not its locks
            time.sleep(POLL)


def _finished(root: Path, lock: FileLock) -> bool:
    """Start a run whose turn has come; whether none is waiting any more, which releases the lock."""
    with suppress(OSError), _one_at_a_time(root):
        queue = queued_runs(root)
        waiting = [(folder, status) for folder, status in queue if _is_mine(status)]
        if not waiting:
            lock.close()
            return True
        due = (folder for folder, status in waiting if turn_has_come(folder, status, queue))
        if (folder := next(due, None)) is not None:
            _start(folder)
    return not root.is_dir()  # else someone else is starting a run, or the disk is full


def _is_mine(status: Status) -> bool:
    return status.waiting and (status.host, status.device, status.limits) == (this_host(), device(), limits())


def _own_status() -> Status:
    """The status of a run that this process would start."""
    return Status("queued", 0.0, 0.0, 0.0, host=this_host(), device=device(), limits=limits())


def _start(folder: Path) -> None:
    """Start the process of a waiting run; if that fails, its status says why."""
    with FileLock(folder / runs.LOCK) as lock:
        if not lock.take(patience=0):
            return
        status = runs.read_status(folder)
        if not status.waiting:  # it was cancelled a moment ago
            return
        begun = replace(status, waiting=False, beat=time.time())
        replace_text(folder / runs.STATUS, begun.to_json())
        try:
            spawn_run(folder, lock)
        except OutputError as error:
            failed = replace(status, state="failed", waiting=False, error=str(error), ended=time.time())
            replace_text(folder / runs.STATUS, failed.to_json())


@contextmanager
def _one_at_a_time(root: Path) -> Iterator[None]:
    """Hold, inside the `with`, the lock under which this machine decides which run is started.

    Raises:
        OutputError: another process holds it for long, or it cannot be locked.
    """
    with FileLock(root / f".{this_host()}-start.lock") as lock:
        if not lock.take(_PATIENCE):
            raise OutputError(f"another process has been starting a run in {root} for {_PATIENCE:.0f} s")
        yield
