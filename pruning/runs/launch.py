"""Starts, resumes and cancels runs, each in its own process."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import threading
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
    working_directory,
    writing_to,
)
from pruning.runs.file_lock import FileLock
from pruning.runs.folder import Run
from pruning.runs.status import Status, this_host

MIN_FREE = 2**25  # bytes that must be free on the disk before a run is started
_PROJECT = Path(__file__).resolve().parents[2]
_COMMAND = (sys.executable, "-P", "-m", "pruning")  # -P: import nothing from the working directory


def start(job: Any, root: Path | str | None = None, *, at_once: int | None = None) -> Run:
    """Start a run in a new folder under `root`, in a process that outlives this one.

    It waits while `at_once` other runs (default: $PRUNESCOPE_AT_ONCE or 1) use the same device.

    Raises:
        ValueError: no kind of run takes such a job, or `root` is a file.
        OutputError: the folder cannot be written to, or its disk is full.
    """
    folder, lock = _create(job, runs.runs_root(root), runs_at_once(at_once))
    with lock:
        _spawn(folder, lock)
    return runs.read(folder)


def resume(run: Run | Path | str, *, at_once: int | None = None) -> Run:
    """Restart a run that was cancelled, interrupted or failed; training continues from its checkpoint.

    Raises:
        ValueError: it is done or already running, or the folder has no job.
        OutputError: the folder cannot be written to.
    """
    folder = run_folder(run)
    with writing_to(folder), claimed_folder(folder) as lock:
        status = restarted_status(runs.read(folder), at_once)
        _require_room(folder)
        replace_text(folder / runs.STATUS, status.to_json())
        _spawn(folder, lock)
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


def _spawn(folder: Path, lock: FileLock) -> None:
    """Start the process of a run in a new session; it takes over the lock."""
    status = runs.read_status(folder)
    words = [*_COMMAND, "run", str(folder), "--lock-handle", str(lock.handle())]
    paths = [str(_PROJECT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    try:
        with (folder / runs.LOG).open("ab") as log:
            process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=working_directory(status),
                env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in paths if path)},
                start_new_session=True,
                pass_fds=(lock.handle(),),
            )
    except OSError as error:
        raise OutputError(f"the run in {folder} could not be started: {error.strerror or error}") from error
    # without a wait, the process would remain as a zombie until this one ends
    threading.Thread(target=process.wait, name=f"wait for {folder.name}", daemon=True).start()
