"""Starts, resumes and cancels runs, each in a process of its own."""

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

MIN_FREE = 2**25  # bytes a disk must have free for a run to be started
_PROJECT = Path(__file__).resolve().parents[2]
_COMMAND = (sys.executable, "-P", "-m", "pruning")  # -P: nothing is imported from where it is started


# ---- from outside


def start(job: Any, root: Path | str | None = None, *, at_once: int | None = None) -> Run:
    """Begin a run in a folder of its own under `root`, in a process that outlives this one.

    It waits while `at_once` other runs (1, or $PRUNESCOPE_AT_ONCE) compute on the same device.

    Raises:
        ValueError: no kind of run takes such a job, or `root` is a file.
        OutputError: the folder cannot be written to, or its disk is full.
    """
    folder, lock = _create(job, runs.runs_root(root), runs_at_once(at_once))
    with lock:
        _spawn(folder, lock)
    return runs.read(folder)


def resume(run: Run | Path | str, *, at_once: int | None = None) -> Run:
    """Start a run again that was cancelled, interrupted or has failed; training goes on from its checkpoint.

    Raises:
        ValueError: it is done, its process lives, or there is no job in the folder.
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
    """Ask a run to end; it does within seconds, keeps what there is, and can be resumed.

    Raises:
        ValueError: its process does not live.
        OutputError: the folder cannot be written to.
    """
    found = runs.read(run_folder(run))
    if not found.active:
        raise ValueError(f"{found.name} is {found.state}; only a run that waits or works can be cancelled")
    with writing_to(found.folder):
        (found.folder / runs.CANCEL).touch()


def _create(job: Any, root: Path, at_once: int) -> tuple[Path, FileLock]:
    """A run folder, which appears whole and locked."""
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
            return _settle(stage, root / name), lock
    except BaseException:
        lock.close()
        shutil.rmtree(stage, ignore_errors=True)
        raise


def _settle(stage: Path, folder: Path) -> Path:
    """Give a folder its name, or the next one where another run was faster."""
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
            f"only {free / 2**20:.0f} MiB are free where {root} lies, a run needs {MIN_FREE / 2**20:.0f}: "
            "free some space or choose another folder"
        )


def _spawn(folder: Path, lock: FileLock) -> None:
    """Start the process of a run in a session of its own; it takes the lock over."""
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
        raise OutputError(f"{folder} could not be started: {error.strerror or error}") from error
    # somebody must wait for it, or it stays in the table of processes as long as this one
    threading.Thread(target=process.wait, name=f"wait for {folder.name}", daemon=True).start()
