"""Claiming a run folder: its lock, its new status, its working directory."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from analysis.paths import absolute, is_file, is_folder, is_there, user_path
from pruning.files import OutputError
from pruning.jobs import registry
from pruning.runs import folder as runs
from pruning.runs.file_lock import FileLock
from pruning.runs.folder import Run
from pruning.runs.status import MOST_AT_ONCE, Status, this_host


def run_folder(run: Run | Path | str) -> Path:
    """The folder of a run, or a given path made absolute.

    Raises:
        ValueError: no folder can have this path.
    """
    return run.folder if isinstance(run, Run) else absolute(user_path(run, "the run folder"))


def runs_at_once(given: int | None) -> int:
    """How many runs may share a device: as given, or $PRUNESCOPE_AT_ONCE, or 1.

    Raises:
        ValueError: not a number of at least 1.
    """
    text = os.environ.get("PRUNESCOPE_AT_ONCE") or "1"
    if given is None and not text.isdecimal():
        raise ValueError(f"PRUNESCOPE_AT_ONCE must be a number of runs, got {text!r}")
    number = int(text) if given is None else given
    if not 1 <= number <= MOST_AT_ONCE:
        raise ValueError(f"at least 1 run must be allowed at once, and at most {MOST_AT_ONCE}, got {number}")
    return number


@contextmanager
def writing_to(folder: Path) -> Iterator[None]:
    """Inside the `with`, an error in writing is raised as one that names the folder.

    Raises:
        OutputError: `folder` could not be written to.
    """
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(f"{folder} could not be written to: {error.strerror or error}") from error


def working_directory(status: Status) -> Path:
    """The folder that the job's relative paths refer to: where it was created, if that still exists."""
    place = Path(status.workdir or Path.cwd())
    return place if place.is_dir() else Path.cwd()


@contextmanager
def claimed_folder(folder: Path, handle: int | None = None) -> Iterator[FileLock]:
    """Hold the folder's lock inside the `with`; `handle` takes over the lock of the starting process.

    A cancel request that was meant for the previous process is dropped.

    Raises:
        ValueError: there is no such run folder, it holds pipes or devices, or another process holds it.
    """
    found = runs.read(folder)
    if found.job is None:  # not a run folder, so nothing may be written into it
        raise ValueError(str(found.problem))
    _require_plain(folder)
    with FileLock(folder / runs.LOCK) as lock:
        if handle is not None:
            lock.adopt(handle)
        elif found.active or not lock.take():
            raise ValueError(f"{found.name} is already {_where(found.status)}; nothing was started")
        else:
            (folder / runs.CANCEL).unlink(missing_ok=True)
        yield lock


def _where(status: Status) -> str:
    if status.waiting:
        return "waiting for its turn"
    return f"running (process {status.pid} on {status.host})"


def _require_plain(folder: Path) -> None:
    """Check that a run folder holds files and folders only: writing to a pipe would wait for a reader.

    Raises:
        ValueError: it holds something else.
    """
    for path in folder.iterdir():
        if is_there(path) and not (is_file(path) or is_folder(path)):
            raise ValueError(f"{path} is neither a file nor a folder: remove it to continue this run")


def restarted_status(run: Run, at_once: int | None) -> Status:
    """The status of a run that is started again.

    Raises:
        ValueError: it is done.
    """
    if run.state == "done":
        place = run.bundle or run.folder / registry.RUN_KINDS[str(run.kind)].output
        raise ValueError(f"{run.name} is done: its result is in {place}")
    now = time.time()
    return Status(
        "queued",
        run.status.created,
        now,
        now,
        host=this_host(),
        attempt=run.status.attempt,
        at_once=run.status.at_once if at_once is None else runs_at_once(at_once),
        workdir=str(working_directory(run.status)),
    )
