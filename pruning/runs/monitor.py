"""The monitor of a run folder: keeps `status.json` fresh, writes curves and log, sees a wish to cancel."""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from pruning.files import append_line, replace_text
from pruning.progress import Cancelled, Monitor
from pruning.runs import folder as runs
from pruning.runs.eta import Pace
from pruning.runs.metrics import METRICS, Point
from pruning.runs.status import Status
from pruning.runs.trackers import MLflow, TensorBoard

BEAT = 2.0  # seconds between two signs of life
ASK = 0.25  # seconds between two looks for a wish to cancel
_RESERVE, _RESERVED = ".reserve", 2**15  # room for the last words of a run that has filled its disk


class RunMonitor(Monitor):
    """Tells a run folder. Calling it is cheap: a thread writes the status, and beats while one call lasts.

    `echo` is told the progress too, as a bar on a terminal. To be used by the one process that holds the
    folder's lock, in a `with`: its end stops the thread, `end` says how the run ended.
    """

    def __init__(
        self,
        folder: Path,
        status: Status,
        *,
        job: Mapping[str, Any] | None = None,
        echo: Callable[[str, float], None] | None = None,
    ) -> None:
        self.folder: Path = folder
        self._status = status
        self._job = job or {}
        self._echo = echo
        self._pace = Pace()
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._cancelled = False
        self._failure: OSError | None = None
        self._boards: tuple[TensorBoard, MLflow] | None = None
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def __enter__(self) -> RunMonitor:
        # random, as zeros take no room on some disks
        (self.folder / _RESERVE).write_bytes(os.urandom(_RESERVED))
        self.update()
        self._thread.start()
        return self

    def __exit__(self, *ended: object) -> None:
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()

    @property
    def status(self) -> Status:
        """What the next sign of life will say."""
        with self._lock:
            return self._now()

    def __call__(self, what: str, share: float) -> None:
        """What is being done and the share of it done, 0 to 1.

        Raises:
            Cancelled: the user asked for an end.
            OSError: the status could not be written.
        """
        if self._failure is not None:
            raise self._failure
        if self._cancelled:
            raise Cancelled
        share = min(max(share, 0.0), 1.0) if math.isfinite(share) else 0.0
        with self._lock:
            self._pace.tell(what, share, time.monotonic())
            self._status = replace(self._status, what=what, share=share)
        if self._echo is not None:
            self._echo(what, share)

    def metrics(self, step: int, **values: float) -> None:
        """Figures of one step of what was told last: a line of `metrics.jsonl`, and a point on each board.

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
        if self._boards is None:
            self._boards = TensorBoard(self.folder), MLflow(self.folder, self._job, self.note)
        for board in self._boards:
            board.add(point.what, step, finite)

    def note(self, line: str) -> None:
        """A line for the log.

        Raises:
            OSError: it could not be written.
        """
        append_line(self.folder / runs.LOG, f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}")

    def update(self, **changes: Any) -> None:
        """Change the status and write it at once.

        Raises:
            OSError: it could not be written; what was there stays.
        """
        with self._lock:
            self._status = replace(self._status, **changes)
            self._write()

    def end(self, state: str, error: str | None = None) -> None:
        """The last words: boards are closed, then the status says how it ended.

        Raises:
            OSError: not even that could be written.
        """
        self.__exit__()  # no sign of life may come after them, nor take the room that is kept for them
        with suppress(OSError):
            (self.folder / _RESERVE).unlink(missing_ok=True)
        self._close_boards(state)
        with suppress(OSError):
            self.note(state if error is None else f"{state}: {error}")
        self._pace = Pace()  # what is over has no time left
        over = {"what": "", "share": 1.0} if state == "done" else {}
        self.update(state=state, error=error, ended=time.time(), **over)

    def _close_boards(self, state: str) -> None:
        if self._boards is None:
            return
        board, server = self._boards
        try:
            board.close()
        except OSError as error:
            with suppress(OSError):
                self.note(f"TensorBoard's file is not whole: {error}")
        server.close(state)

    def _beat(self) -> None:
        due = 0.0
        while not self._over.wait(ASK):
            self._cancelled = self._cancelled or (self.folder / runs.CANCEL).exists()
            if time.monotonic() < due:
                continue
            due = time.monotonic() + BEAT
            try:
                self.update()
            except OSError as error:
                self._failure = error  # raised where the work is done, at its next call

    def _write(self) -> None:
        self._status = self._now()
        replace_text(self.folder / runs.STATUS, self._status.to_json())

    def _now(self) -> Status:
        rate, remaining = self._pace.estimate(time.monotonic())
        return replace(self._status, rate=rate, remaining=remaining, beat=time.time())
