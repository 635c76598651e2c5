"""Carries out a run: what the process of `python -m pruning run` does.

The process that starts a run acquires the folder's lock and hands it over, so that the lock is held at every
moment: no run is executed twice, and a free lock means that its process is gone.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
import traceback
from dataclasses import replace
from pathlib import Path

from pruning.bundle import require_free
from pruning.export import ExportError
from pruning.files import OutputError, disk_full
from pruning.jobs import registry
from pruning.progress import Cancelled, Progress
from pruning.runs import folder as runs
from pruning.runs.claim import claimed_folder, restarted_status, run_folder, working_directory
from pruning.runs.folder import Run
from pruning.runs.monitor import RunMonitor
from pruning.runs.queue import device, wait_for_slot
from pruning.training import CHECKPOINTS


class RunFailed(RuntimeError):
    """A run failed with an unexpected error; the message is one sentence, the log has the traceback."""


def execute(
    folder: Path | str,
    *,
    lock_handle: int | None = None,
    at_once: int | None = None,
    progress: Progress | None = None,
) -> Run:
    """Carry out a run in this process: wait for a free slot, do the work, write the result.

    Progress goes to the status file and to `progress`. Unless the process is killed, the status records how
    the run ended.

    Raises:
        ValueError: the run is done or already running, the folder has no job, or the job has bad input.
        Cancelled: the user cancelled the run.
        OSError: a file could not be written or read.
        RunFailed: an unexpected error.
    """
    folder = run_folder(Path(folder))
    with claimed_folder(folder, lock_handle):
        run = runs.read(folder)
        status = restarted_status(run, at_once) if lock_handle is None else run.status
        status = replace(status, attempt=status.attempt + 1, pid=os.getpid(), device=device(), waiting=False)
        monitor = RunMonitor(folder, status, job=run.as_dict()["job"], progress=progress)
        with contextlib.chdir(working_directory(status)):
            _run_to_end(run, monitor)
        return runs.read(folder)


def _run_to_end(run: Run, monitor: RunMonitor) -> None:
    """Do the work and record how it ended."""
    waiting = lambda: monitor("Waiting for another run to finish", 0.0)
    try:
        with monitor, wait_for_slot(run.folder, lambda: monitor.status, waiting):
            monitor.update(state="running", began=time.time(), what="", share=0.0)
            _work(run, monitor)
    except BaseException as error:
        state, sentence = _ending(error, run.folder)
        if not isinstance(error, Cancelled | ValueError | OSError | ExportError | KeyboardInterrupt):
            with contextlib.suppress(OSError):
                monitor.note(traceback.format_exc())
        with contextlib.suppress(OSError):  # if even this cannot be written, the run shows as interrupted
            monitor.end(state, sentence)
        if isinstance(error, ValueError | Cancelled | ExportError) or not isinstance(error, Exception):
            raise
        if isinstance(error, OSError) or disk_full(error, run.folder):
            raise OutputError(sentence) from error
        raise RunFailed(sentence) from error
    monitor.end("done")


def _work(run: Run, monitor: RunMonitor) -> None:
    kind = registry.RUN_KINDS[str(run.kind)]
    if kind.is_complete(run.folder):  # killed after writing the result, before its status said "done"
        return
    place = run.folder / kind.output
    require_free(place)
    result = kind.execute(run.job, monitor)
    monitor("Writing the result", 0.0)
    kind.write(result, place)
    shutil.rmtree(run.folder / CHECKPOINTS, ignore_errors=True)  # a finished run is never resumed


def _ending(error: BaseException, folder: Path) -> tuple[str, str | None]:
    """State and error message of a run that was ended by an exception."""
    if isinstance(error, Cancelled | KeyboardInterrupt):
        return "cancelled", None
    if disk_full(error, folder):
        return "failed", f"the disk is full: free some space on the disk of {folder} and resume the run"
    if isinstance(error, ValueError | OSError | ExportError):
        return "failed", str(error)
    first = (str(error).splitlines() or [""])[0]
    return "failed", f"an unexpected error ended the run, see its log: {type(error).__name__}: {first}"
