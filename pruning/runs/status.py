"""Where a run stands, as data, and how a small file is replaced without anyone seeing half of it."""

from __future__ import annotations

import json
import math
import re
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

STATES = ("queued", "running", "done", "failed", "cancelled", "interrupted")
ACTIVE = ("queued", "running")  # what only a living process can be


@dataclass(frozen=True)
class Status:
    """Where a run stands. Times are in seconds since 1970, durations in seconds, shares from 0 to 1.

    `what` is being done and `share` of it is done, at `rate` a second; `remaining` is until the end of
    `what`. `queued` is when the run was started or resumed last, `began` when its turn came, `beat` the
    last sign of life. `figures` are the latest of its curves, `attempt` counts the starts.
    `workdir` is where relative paths of the job begin, `at_once` how many runs may share the device.

    Raises:
        ValueError: a value of another kind.
    """

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
        if self.state not in STATES:
            raise ValueError(f"a run's state is one of {', '.join(STATES)}, got {self.state!r}")
        for option in fields(self):
            value = getattr(self, option.name)
            if not _fits(value, str(option.type)):
                raise ValueError(f"{option.name} of a status must be {option.type}, got {value!r}")

    def to_json(self) -> str:
        """Serialise; `from_json` gives an equal status back."""
        return json.dumps(asdict(self), indent=1, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Status:
        """Rebuild from `to_json`; what a newer version may have added is left out.

        Raises:
            ValueError: not JSON, or not a status.
        """
        try:
            data: dict[str, Any] = json.loads(text)
            return cls(**{option.name: data[option.name] for option in fields(cls) if option.name in data})
        except (TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"this is not the status of a run: {error}") from error


def _fits(value: object, kind: str) -> bool:
    if value is None:
        return kind.endswith("None")
    if kind.startswith("str"):
        return isinstance(value, str)
    if kind.startswith("Mapping"):
        return isinstance(value, Mapping) and all(_fits(number, "float") for number in value.values())
    if isinstance(value, bool) or not isinstance(value, int if kind.startswith("int") else (int, float)):
        return False
    return math.isfinite(value)


def this_host() -> str:
    """The machine's name, as a word that a file name takes."""
    return re.sub(r"[^\w.-]+", "-", socket.gethostname()) or "here"
