"""Progress reporting and cancellation of long computations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path


class Cancelled(Exception):
    """The user cancelled the computation; results written so far are kept."""


class Monitor:
    """Receives progress, metrics and log lines; this base class ignores them and never cancels.

    The monitor of a run folder writes them to files (`pruning.runs`). Calling a monitor reports progress,
    so it can be passed wherever a `Progress` is expected.
    """

    folder: Path | None = None  # where checkpoints are written; None: no checkpoints

    def __call__(self, what: str, share: float) -> None:
        """Report the current activity and the share of it done, 0 to 1.

        Raises:
            Cancelled: the user cancelled the computation.
        """

    def metrics(self, step: int, **values: float) -> None:
        """Report the metrics of one step, such as a point of a training curve."""

    def note(self, line: str) -> None:
        """Write a line to the log."""


class OneStep(Monitor):
    """Reports steps that follow each other as one step, `what`, whose share done never falls.

    `lengths` are the steps by name, in their order, and how long each takes in comparison. A step of another
    name belongs to the first of them; one that never comes is taken as done as soon as a later one begins.
    """

    def __init__(self, monitor: Monitor, what: str, lengths: Mapping[str, float]) -> None:
        self._monitor, self._what, self._done = monitor, what, 0.0
        self.folder = monitor.folder
        total, before = sum(lengths.values()), 0.0
        self._parts: dict[str, tuple[float, float]] = {}
        for name, length in lengths.items():
            self._parts[name] = before / total, length / total
            before += length
        self._first = next(iter(self._parts.values()))

    def __call__(self, what: str, share: float) -> None:
        """Report the share of the whole that is done."""
        begins, part = self._parts.get(what, self._first)
        self._done = max(self._done, begins + part * share)
        self._monitor(self._what, self._done)

    def metrics(self, step: int, **values: float) -> None:
        """Forward the metrics."""
        self._monitor.metrics(step, **values)

    def note(self, line: str) -> None:
        """Forward the line."""
        self._monitor.note(line)


class PrintingMonitor(Monitor):
    """Forwards progress to one function, and accuracies and log lines to another."""

    def __init__(self, progress: Callable[[str, float], None], say: Callable[[str], object]) -> None:
        self.progress, self.say = progress, say

    def __call__(self, what: str, share: float) -> None:
        """Forward progress."""
        self.progress(what, share)

    def metrics(self, step: int, **values: float) -> None:
        """Print the accuracy, if it is among the metrics."""
        if "top1" in values:
            self.say(f"step {step}: top-1 {values['top1']:.2%}")

    def note(self, line: str) -> None:
        """Print the line."""
        self.say(line)


def as_monitor(progress: Callable[[str, float], None]) -> Monitor:
    """Return `progress` itself if it is a monitor, else one that forwards only progress to it."""
    return progress if isinstance(progress, Monitor) else PrintingMonitor(progress, lambda line: None)


Progress = Callable[[str, float], None]  # called with the current activity and the share of it done, 0 to 1


def quiet(what: str, share: float) -> None:
    """A `Progress` that ignores what it is called with."""
