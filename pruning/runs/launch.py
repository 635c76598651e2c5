"""Starts, resumes and cancels runs. Each is carried out by its own process, once its turn has come."""

from __future__ import annotations

import errno
import shutil
import time
import uuid
from pathlib import Path
from typing import Any

from pruning.files import OutputError, replace_text
from pruning.jobs import registry
from pruning.runs import folder as runs
from pruning.runs.claim import (
    claimed_folder,
    restarted_status,
    run_folder,
    runs_at_once,
    writing_to,
)
from pruning.runs.file_lock import FileLock
from pruning.runs.folder import Run
from pruning.runs.queue import MOST_WAITING, drop_from_queue, require_short_queue, start_or_queue
from pruning.runs.status import Status, this_host

MIN_FREE = 2**25  # bytes that must be free on the disk before a run is started


def start(
    job: Any,
    root: Path | str | None = None,
    *,
    at_once: int | None = None,
    most_waiting: int = MOST_WAITING,
) -> Run:
    """Start a run in a new folder under `root`, in a process that outlives this one.

    While `at_once` other runs (default: $PRUNESCOPE_AT_ONCE or 1) use the same device, it waits without one.

    Raises:
        ValueError: no kind of run takes such a job, `root` is a file, or `most_waiting` runs wait there.
        OutputError: the folder cannot be written to, or its disk is full.
    """
    place = runs.runs_root(root)
    require_short_queue(place, most_waiting)
    folder, lock = _create(job, place, runs_at_once(at_once))
    with lock, writing_to(folder):
        start_or_queue(folder, lock)
    return runs.read(folder)


def resume(run: Run | Path | str, *, at_once: int | None = None, most_waiting: int = MOST_WAITING) -> Run:
    """Restart a run that was cancelled, interrupted or failed; training continues from its checkpoint.

    Raises:
        ValueError: it is done or already running, the folder has no job, or `most_waiting` runs wait.
        OutputError: the folder cannot be written to.
    """
    folder = run_folder(run)
    with writing_to(folder), claimed_folder(folder) as lock:
        status = restarted_status(runs.read(folder), at_once)
        _require_room(folder)
        require_short_queue(folder.parent, most_waiting)
        replace_text(folder / runs.STATUS, status.to_json())
        start_or_queue(folder, lock)
    return runs.read(folder)


def cancel(run: Run | Path | str) -> None:
    """Request that a run ends; it does so within seconds, keeps its files and can be resumed.

    Raises:
        ValueError: it is not running, or there is no run in this folder.
        OutputError: the folder cannot be written to.
    """
    found = runs.read(run_folder(run))
    if found.job is None and not found.active:
        raise ValueError(str(found.problem))
    if not found.active:
        raise ValueError(f"{found.name} is {found.state}; only a queued or running run can be cancelled")
    with writing_to(found.folder):
        if not drop_from_queue(found):
            (found.folder / runs.CANCEL).touch()


def _create(job: Any, root: Path, at_once: int) -> tuple[Path, FileLock]:
    """Create a run folder; it appears under its name only when it is complete and locked."""
    text, now = registry.pack(job), time.time()
    name = registry.folder_name(job, time.strftime("%Y%m%d-%H%M%S", time.gmtime(now)))
    status = Status("queued", now, now, now, host=this_host(), at_once=at_once, workdir=str(Path.cwd()))
    stage = root / f".{uuid.uuid4().hex[:8]}.part"
    lock = FileLock(stage / runs.LOCK)
    try:
        with writing_to(root):
            stage.mkdir(parents=True)
            _require_room(root)
            (stage / runs.JOB).write_text(text, encoding="utf-8", newline="\n")
            replace_text(stage / runs.STATUS, status.to_json())
            lock.take()
            return _move_to_free_name(stage, root / name), lock
    except BaseException:
        lock.close()
        shutil.rmtree(stage, ignore_errors=True)
        raise


def _move_to_free_name(stage: Path, folder: Path) -> Path:
    """Rename `stage` to `folder`, or to the name with the next free number if that is taken."""
    for number in range(1, 1000):
        place = folder if number == 1 else folder.with_name(f"{folder.name}-{number}")
        if not place.exists():
            try:
                return stage.rename(place)
            except OSError as error:
                if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                    raise
    raise OutputError(f"there are too many runs named {folder}")


def _require_room(root: Path) -> None:
    free = shutil.disk_usage(root).free
    if free < MIN_FREE:
        raise OutputError(
            f"only {free / 2**20:.0f} MiB are free on the disk of {root}, a run needs "
            f"{MIN_FREE / 2**20:.0f}: free some space or choose another folder"
        )
