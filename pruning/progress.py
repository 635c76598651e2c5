"""What a long computation tells the outside, and what it asks: one object handed down to it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path


class Cancelled(Exception):
    """The user asked for an end; what is there is kept."""


class Monitor:
    """Tells nobody and is never cancelled; a run folder's monitor writes files (`pruning.runs`).

    Calling it is telling progress, so that it goes wherever a `Progress` is wanted.
    """

    folder: Path | None = None  # where checkpoints may be kept, None: nowhere

    def __call__(self, what: str, share: float) -> None:
        """What is being done and the share of it done, 0 to 1.

        Raises:
            Cancelled: the user asked for an end.
        """

    def metrics(self, step: int, **values: float) -> None:
        """Figures of one step, as of a training curve."""

    def note(self, line: str) -> None:
        """A line for the log."""


class PrintingMonitor(Monitor):
    """Passes progress on, and measured accuracies and notes line by line."""

    def __init__(self, progress: Callable[[str, float], None], say: Callable[[str], object]) -> None:
        self.progress, self.say = progress, say

    def __call__(self, what: str, share: float) -> None:
        """Pass it on."""
        self.progress(what, share)

    def metrics(self, step: int, **values: float) -> None:
        """Say the accuracy, if it is among them."""
        if "top1" in values:
            self.say(f"step {step}: top-1 {values['top1']:.2%}")

    def note(self, line: str) -> None:
        """Say it."""
        self.say(line)


def as_monitor(progress: Callable[[str, float], None]) -> Monitor:
    """A monitor out of whatever wants to know the progress; the other news is dropped."""
    return progress if isinstance(progress, Monitor) else PrintingMonitor(progress, lambda line: None)


Progress = Callable[[str, float], None]  # what is being done, and the share of it done, 0 to 1


def quiet(what: str, share: float) -> None:
    """Progress nobody asked for."""
