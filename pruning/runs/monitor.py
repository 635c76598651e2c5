"""The monitor of a run: keeps `status.json` up to date, writes curves and log, sees cancel requests."""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from pruning.files import append_line, replace_text
from pruning.progress import Cancelled, Monitor, Progress
from pruning.runs import folder as runs
from pruning.runs.eta import RateEstimator
from pruning.runs.metrics import METRICS, Point
from pruning.runs.status import Status
from pruning.runs.trackers import MLflow, TensorBoard
from pruning.wording import printable

HEARTBEAT = 2.0  # seconds between two heartbeats
CANCEL_POLL = 0.25  # seconds between two checks for a cancel request
_RESERVE, _RESERVED = ".reserve", 2**15  # bytes kept free for the final status of a run that fills its disk


class RunMonitor(Monitor):
    """Records a run's progress in its folder. Calls are cheap: a heartbeat thread writes the status file.

    Progress is also passed to `progress`, such as a bar on a terminal. Only the process that holds the
    folder's lock may use it, in a `with`, whose end stops the thread; `end` records how the run ended.
    """

    def __init__(
        self,
        folder: Path,
        status: Status,
        *,
        job: Mapping[str, Any] | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.folder: Path = folder
        self._status = status
        self._job = job or {}
        self._progress = progress
        self._rate = RateEstimator()
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._cancelled = False
        self._failure: OSError | None = None
        self._trackers: tuple[TensorBoard, MLflow] | None = None
        self._thread = threading.Thread(target=self._heartbeat, name="heartbeat", daemon=True)

    def __enter__(self) -> RunMonitor:
        # random bytes, because some file systems take no space for zeros
        (self.folder / _RESERVE).write_bytes(os.urandom(_RESERVED))
        self.update()
        self._thread.start()
        return self

    def __exit__(self, *ended: object) -> None:
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()

    @property
    def status(self) -> Status:
        """The status that the next heartbeat will write."""
        with self._lock:
            return self._now()

    def __call__(self, what: str, share: float) -> None:
        """Report the step `what` and the share of it that is done, 0 to 1.

        Raises:
            Cancelled: the user cancelled the run.
            OSError: the status could not be written.
        """
        if self._failure is not None:
            raise self._failure
        if self._cancelled:
            raise Cancelled
        share = min(max(share, 0.0), 1.0) if math.isfinite(share) else 0.0
        with self._lock:
            self._rate.update(what, share, time.monotonic())
            self._status = replace(self._status, what=what, share=share)
        if self._progress is not None:
            self._progress(what, share)

    def metrics(self, step: int, **values: float) -> None:
        """Record figures of one training step in `metrics.jsonl`, TensorBoard and MLflow.

        Raises:
            OSError: they could not be written.
        """
        finite = {name: float(value) for name, value in values.items() if math.isfinite(value)}
        epoch = finite.get("epoch")
        with self._lock:
            figures = {**self._status.figures, **finite}
            self._status = replace(
                self._status, step=step, epoch=self._status.epoch if epoch is None else epoch, figures=figures
            )
        point = Point(self._status.what, step, time.time(), self._status.attempt, values)
        append_line(self.folder / METRICS, point.to_json().rstrip("\n"))
        if self._trackers is None:
            self._trackers = TensorBoard(self.folder), MLflow(self.folder, self._job, self.note)
        for tracker in self._trackers:
            tracker.add(point.what, step, finite)

    def note(self, line: str) -> None:
        """Append a line to the log. Further lines, as of a traceback, are indented below it.

        Raises:
            OSError: it could not be written.
        """
        shown = "\n    ".join(printable(one) for one in line.splitlines())
        append_line(self.folder / runs.LOG, f"{time.strftime('%Y-%m-%d %H:%M:%S')} {shown}")

    def update(self, **changes: Any) -> None:
        """Change the status and write it at once.

        Raises:
            OSError: it could not be written; the old status file stays.
        """
        with self._lock:
            self._status = replace(self._status, **changes)
            self._write()

    def end(self, state: str, error: str | None = None) -> None:
        """Close the trackers and write the final status.

        Raises:
            OSError: not even that could be written.
        """
        self.__exit__()  # no heartbeat may follow the final status or use up the space reserved for it
        with suppress(OSError):
            (self.folder / _RESERVE).unlink(missing_ok=True)
        self._close_trackers(state)
        with suppress(OSError):
            self.note(state if error is None else f"{state}: {error}")
        self._rate = RateEstimator()  # a run that has ended has no remaining time
        finished = {"what": "", "share": 1.0} if state == "done" else {}
        self.update(state=state, error=error, ended=time.time(), **finished)

    def _close_trackers(self, state: str) -> None:
        if self._trackers is None:
            return
        board, server = self._trackers
        try:
            board.close()
        except OSError as error:
            with suppress(OSError):
                self.note(f"TensorBoard's event file is incomplete: {error}")
        server.close(state)

    def _heartbeat(self) -> None:
        due = 0.0
        while not self._stopped.wait(CANCEL_POLL):
            self._cancelled = self._cancelled or (self.folder / runs.CANCEL).exists()
            if time.monotonic() < due:
                continue
            due = time.monotonic() + HEARTBEAT
            try:
                self.update()
            except OSError as error:
                self._failure = error  # raised in the working thread, at its next call

    def _write(self) -> None:
        self._status = self._now()
        replace_text(self.folder / runs.STATUS, self._status.to_json())

    def _now(self) -> Status:
        rate, remaining = self._rate.estimate(time.monotonic())
        return replace(self._status, rate=rate, remaining=remaining, beat=time.time())
