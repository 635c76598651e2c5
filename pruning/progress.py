"""Progress reporting and cancellation of long computations."""

from __future__ import annotations

from collections.abc import Callable
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
