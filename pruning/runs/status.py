"""Where a run stands, as data."""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from analysis.formats import Stored

STATES = ("queued", "running", "done", "failed", "cancelled", "interrupted")
ACTIVE = ("queued", "running")  # what only a living process can be


@dataclass(frozen=True)
class Status(Stored):
    """Where a run stands. Times are in seconds since 1970, durations in seconds, shares from 0 to 1.

    `what` is being done and `share` of it is done, at `rate` a second; `remaining` is until the end of
    `what`. `queued` is when the run was started or resumed last, `began` when its turn came, `beat` the
    last sign of life. `figures` are the latest of its curves, `attempt` counts the starts.
    `workdir` is where relative paths of the job begin, `at_once` how many runs may share the device.

    Raises:
        ValueError: a value of another type, or a state that there is not.
    """

    INDENT: ClassVar[int | None] = 1

    state: str
    created: float
    queued: float
    beat: float
    what: str = ""
    share: float = 0.0
    rate: float | None = None
    remaining: float | None = None
    began: float | None = None
    ended: float | None = None
    error: str | None = None
    pid: int | None = None
    host: str | None = None
    device: str | None = None
    attempt: int = 0
    at_once: int = 1
    step: int | None = None
    epoch: float | None = None
    workdir: str | None = None
    figures: Mapping[str, float] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.state not in STATES:
            raise ValueError(f"`state` must be one of {', '.join(STATES)}, got {self.state!r:.60}")


def this_host() -> str:
    """The machine's name, as a word that a file name takes."""
    return re.sub(r"[^\w.-]+", "-", socket.gethostname()) or "here"
