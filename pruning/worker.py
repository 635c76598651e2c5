"""Carries out a run folder: the process behind `python -m pruning run`, and what starts and stops it.

The process that starts a run takes the folder's lock and hands it over, so that there is no moment at
which nobody holds it: nothing runs twice, and a free lock means that the process is gone.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import subprocess
import sys
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from pruning import kinds, runs
from pruning.bundle import OutputError, require_free
from pruning.checkpoint import CHECKPOINTS
from pruning.export import ExportError
from pruning.locks import FileLock
from pruning.monitor import Cancelled
from pruning.run_monitor import RunMonitor
from pruning.runs import Run
from pruning.status import Status, disk_full, replace_text, this_host
from pruning.turns import device, turn

MIN_FREE = 2**25  # bytes a disk must have free for a run to be started
_PROJECT = Path(__file__).resolve().parent.parent
_COMMAND = (sys.executable, "-P", "-m", "pruning")  # -P: nothing is imported from where it is started


class RunFailed(RuntimeError):
    """A run failed in a way nobody foresaw; its message is one sentence, its log holds the rest."""


# ---- from outside


def start(job: Any, root: Path | str | None = None, *, at_once: int | None = None) -> Run:
    """Begin a run in a folder of its own under `root`, in a process that outlives this one.

    It waits while `at_once` other runs (1, or $PRUNESCOPE_AT_ONCE) compute on the same device.

    Raises:
        ValueError: no kind of run takes such a job, or `root` is a file.
        OutputError: the folder cannot be written to, or its disk is full.
    """
    folder, lock = _create(job, runs.runs_root(root), _at_once(at_once))
    with lock:
        _spawn(folder, lock)
    return runs.read(folder)


def resume(run: Run | Path | str, *, at_once: int | None = None) -> Run:
    """Start a run again that was cancelled, interrupted or has failed; training goes on from its checkpoint.

    Raises:
        ValueError: it is done, its process lives, or there is no job in the folder.
        OutputError: the folder cannot be written to.
    """
    folder = _folder(run)
    with _writing(folder), _claimed(folder) as lock:
        status = _anew(runs.read(folder), at_once)
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
    found = runs.read(_folder(run))
    if not found.active:
        raise ValueError(f"{found.name} is {found.state}; only a run that waits or works can be cancelled")
    with _writing(found.folder):
        (found.folder / runs.CANCEL).touch()


def _folder(run: Run | Path | str) -> Path:
    return run.folder if isinstance(run, Run) else Path(run).expanduser().resolve()


def _at_once(given: int | None) -> int:
    text = os.environ.get("PRUNESCOPE_AT_ONCE") or "1"
    if given is None and not text.isdecimal():
        raise ValueError(f"PRUNESCOPE_AT_ONCE must be a number of runs, got {text!r}")
    number = int(text) if given is None else given
    if number < 1:
        raise ValueError(f"at least 1 run must be allowed at once, got {number}")
    return number


def _create(job: Any, root: Path, at_once: int) -> tuple[Path, FileLock]:
    """A run folder, which appears whole and locked."""
    text, now = kinds.pack(job), time.time()
    name = kinds.folder_name(job, time.strftime("%Y%m%d-%H%M%S", time.gmtime(now)))
    status = Status("queued", now, now, now, host=this_host(), at_once=at_once, workdir=str(Path.cwd()))
    stage = root / f".{uuid.uuid4().hex[:8]}.part"
    lock = FileLock(stage / runs.LOCK)
    try:
        with _writing(root):
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


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Inside the `with`, a folder that cannot be written to is a sentence."""
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(f"{folder} could not be written to: {error.strerror or error}") from error


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
                cwd=_workdir(status),
                env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in paths if path)},
                start_new_session=True,
                pass_fds=(lock.handle(),),
            )
    except OSError as error:
        raise OutputError(f"{folder} could not be started: {error.strerror or error}") from error
    # somebody must wait for it, or it stays in the table of processes as long as this one
    threading.Thread(target=process.wait, name=f"wait for {folder.name}", daemon=True).start()


def _workdir(status: Status) -> Path:
    """Where relative paths of the job begin: where it was made, if that is there."""
    place = Path(status.workdir or Path.cwd())
    return place if place.is_dir() else Path.cwd()


@contextmanager
def _claimed(folder: Path, handle: int | None = None) -> Iterator[FileLock]:
    """The folder's lock, taken, or taken over by its `handle`; a wish to cancel goes with the old holder.

    Raises:
        ValueError: the folder is not there, or somebody holds it.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder; `python -m pruning runs` lists the runs there are")
    found = runs.read(folder)
    if found.job is None:  # before a file is written into what is none of ours
        raise ValueError(str(found.problem))
    with FileLock(folder / runs.LOCK) as lock:
        if handle is not None:
            lock.adopt(handle)
        elif found.active or not lock.take():
            where = f"process {found.status.pid} on {found.status.host}"
            raise ValueError(f"{found.name} is running already ({where}); nothing was started")
        else:
            (folder / runs.CANCEL).unlink(missing_ok=True)
        yield lock


def _anew(run: Run, at_once: int | None) -> Status:
    """The status of a run that is started once more.

    Raises:
        ValueError: it is done.
    """
    if run.state == "done":
        place = run.folder / kinds.KINDS[str(run.kind)].output
        raise ValueError(f"{run.name} is done: its result lies in {place}")
    now = time.time()
    return Status(
        "queued",
        run.status.created,
        now,
        now,
        host=this_host(),
        attempt=run.status.attempt,
        at_once=run.status.at_once if at_once is None else _at_once(at_once),
        workdir=str(_workdir(run.status)),
    )


# ---- inside the process


def execute(
    folder: Path | str,
    *,
    lock_handle: int | None = None,
    at_once: int | None = None,
    echo: Callable[[str, float], None] | None = None,
) -> Run:
    """Carry out a run in this process, from its turn to its bundle; `echo` is told the progress too.

    However it ends, the status says so, unless the process is killed.

    Raises:
        ValueError: the run is done, its process lives, there is no job in the folder, or bad input in it.
        Cancelled: the user asked for an end.
        OSError: files that could not be written or read.
        RunFailed: anything nobody foresaw.
    """
    folder = _folder(Path(folder))
    with _claimed(folder, lock_handle):
        run = runs.read(folder)
        status = _anew(run, at_once) if lock_handle is None else run.status
        status = replace(status, attempt=status.attempt + 1, pid=os.getpid(), device=device())
        monitor = RunMonitor(folder, status, job=run.as_dict()["job"], echo=echo)
        with contextlib.chdir(_workdir(status)):
            _to_the_end(run, monitor)
        return runs.read(folder)


def _to_the_end(run: Run, monitor: RunMonitor) -> None:
    """Do the work and write down how it ended."""
    waiting = lambda: monitor("Waiting for another run to end", 0.0)
    try:
        with monitor, turn(run.folder, lambda: monitor.status, waiting):
            monitor.update(state="running", began=time.time(), what="", share=0.0)
            _work(run, monitor)
    except BaseException as error:
        state, sentence = _ending(error, run.folder)
        if not isinstance(error, Cancelled | ValueError | OSError | ExportError | KeyboardInterrupt):
            with contextlib.suppress(OSError):
                monitor.note(traceback.format_exc())
        with contextlib.suppress(OSError):  # not even room for that: it will show as interrupted
            monitor.end(state, sentence)
        if isinstance(error, ValueError | Cancelled | ExportError) or not isinstance(error, Exception):
            raise
        if isinstance(error, OSError) or disk_full(error, run.folder):
            raise OutputError(sentence) from error
        raise RunFailed(sentence) from error
    monitor.end("done")


def _work(run: Run, monitor: RunMonitor) -> None:
    kind = kinds.KINDS[str(run.kind)]
    if kind.is_complete(run.folder):  # as it appears at once: only the last words were missing
        return
    place = run.folder / kind.output
    require_free(place)
    result = kind.execute(run.job, monitor)
    monitor("Writing the result", 0.0)
    kind.write(result, place)
    shutil.rmtree(run.folder / CHECKPOINTS, ignore_errors=True)  # there is nothing left to go on with


def _ending(error: BaseException, folder: Path) -> tuple[str, str | None]:
    """State and sentence of a run that ends by an error."""
    if isinstance(error, Cancelled | KeyboardInterrupt):
        return "cancelled", None
    if disk_full(error, folder):
        return "failed", f"the disk is full: free some space where {folder} lies and resume the run"
    if isinstance(error, ValueError | OSError | ExportError):
        return "failed", str(error)
    first = (str(error).splitlines() or [""])[0]
    return "failed", f"an unexpected error ended the run, its log says where: {type(error).__name__}: {first}"
