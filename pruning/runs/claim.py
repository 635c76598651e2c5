"""Taking over a run folder: its lock, its new status, its working directory."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pruning.files import OutputError
from pruning.jobs import registry
from pruning.runs import folder as runs
from pruning.runs.file_lock import FileLock
from pruning.runs.folder import Run
from pruning.runs.status import Status, this_host


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


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Inside the `with`, a folder that cannot be written to is a sentence."""
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(f"{folder} could not be written to: {error.strerror or error}") from error


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
        place = run.bundle or run.folder / registry.RUN_KINDS[str(run.kind)].output
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
