"""Carries out a run folder: the process behind `python -m pruning run`, and what starts and stops it.

The process that starts a run takes the folder's lock and hands it over, so that there is no moment at
which nobody holds it: nothing runs twice, and a free lock means that the process is gone.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from pruning.bundle import ExportError, require_free
from pruning.files import OutputError, disk_full
from pruning.jobs import registry
from pruning.progress import Cancelled
from pruning.runs import folder as runs
from pruning.runs.claim import claimed_folder, restarted_status, run_folder, working_directory
from pruning.runs.folder import Run
from pruning.runs.monitor import RunMonitor
from pruning.runs.queue import device, wait_for_turn
from pruning.training import CHECKPOINTS


class RunFailed(RuntimeError):
    """A run failed in a way nobody foresaw; its message is one sentence, its log holds the rest."""


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
    folder = run_folder(Path(folder))
    with claimed_folder(folder, lock_handle):
        run = runs.read(folder)
        status = restarted_status(run, at_once) if lock_handle is None else run.status
        status = replace(status, attempt=status.attempt + 1, pid=os.getpid(), device=device())
        monitor = RunMonitor(folder, status, job=run.as_dict()["job"], echo=echo)
        with contextlib.chdir(working_directory(status)):
            _to_the_end(run, monitor)
        return runs.read(folder)


def _to_the_end(run: Run, monitor: RunMonitor) -> None:
    """Do the work and write down how it ended."""
    waiting = lambda: monitor("Waiting for another run to end", 0.0)
    try:
        with monitor, wait_for_turn(run.folder, lambda: monitor.status, waiting):
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
    kind = registry.RUN_KINDS[str(run.kind)]
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
