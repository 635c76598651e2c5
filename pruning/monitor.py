"""What a long computation tells the outside, and what it asks: one object handed down to it."""

from __future__ import annotations

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
