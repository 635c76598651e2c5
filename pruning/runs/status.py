"""What a run folder says of its run, as data: the status, and the name, note and star that people gave it."""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from analysis.formats import Stored

STATES = ("queued", "running", "done", "failed", "cancelled", "interrupted")
MOST_AT_ONCE = 256  # runs on one device
NOTE = "note.json"
LONGEST_NAME, LONGEST_TEXT = 80, 4000  # characters of a note
ACTIVE = ("queued", "running")  # only while the process is alive


@dataclass(frozen=True)
class Status(Stored):
    """State and progress of a run. Times are Unix times, durations are in seconds, shares from 0 to 1.

    `share` of the step `what` is done, at `rate` per second; `remaining` is the time until that step ends.
    `queued` is when the run was last started or resumed, `began` when it left the queue, `beat` its last
    heartbeat. `figures` are the latest values of its curves, `attempt` counts its starts. Relative paths of
    the job start from `workdir`; `at_once` runs may share the device. A run that is `waiting` is queued and
    has no process yet: the dispatcher of its device (queue/dispatch.py) starts one when its turn comes, under
    the `limits` of whoever started the run.

    Raises:
        ValueError: a value of the wrong type, an unknown state, or `at_once` below 1.
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
    waiting: bool = False
    limits: str = ""
    figures: Mapping[str, float] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.state not in STATES:
            raise ValueError(f"`state` must be one of {', '.join(STATES)}, got {self.state!r:.60}")
        if self.at_once < 1:  # such a run would wait for ever
            raise ValueError(f"`at_once` must be at least 1, got {self.at_once}")
        if self.at_once > MOST_AT_ONCE:
            raise ValueError(f"`at_once` must be at most {MOST_AT_ONCE}, got {self.at_once}")
        for name in ("host", "device", "limits"):  # which become parts of names of files
            value = getattr(self, name)
            if value is not None and not re.fullmatch(r"[\w.-]{0,255}", value):
                raise ValueError(f"`{name}` must be letters, digits, dots and dashes, got {value!r:.60}")


@dataclass(frozen=True)
class RunNote(Stored):
    """A name, a note and a star. A run without such a file has none of them.

    Raises:
        ValueError: a value of the wrong type, a name of several lines, or one that is too long.
    """

    INDENT: ClassVar[int | None] = 1

    name: str = ""
    text: str = ""
    star: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.name != " ".join(self.name.split()):
            raise ValueError("`name` must be one line without spaces around it")
        for which, most in (("name", LONGEST_NAME), ("text", LONGEST_TEXT)):
            if len(getattr(self, which)) > most:
                raise ValueError(f"`{which}` must have at most {most:,} characters")


def label(number: int | None, name: str) -> str:
    """What a run is called everywhere: its number, and its name if it was given one."""
    counted = "" if number is None else f"run {number}"
    return " · ".join(filter(None, (counted, name)))


def this_host() -> str:
    """The machine's name, with characters that are safe in a file name."""
    return re.sub(r"[^\w.-]+", "-", socket.gethostname()) or "here"
