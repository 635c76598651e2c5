"""Reads the curves of a run incrementally: only the lines that are new since the last read."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.formats import NotJson, Stored, dump, in_file
from analysis.paths import open_regular

METRICS = "metrics.jsonl"
MOST_BYTES = 2**30


@dataclass(frozen=True)
class Point(Stored):
    """The figures of one step of the phase `what`, as reported by the attempt (start) number `attempt`."""

    what: str
    step: int
    time: float
    attempt: int
    values: Mapping[str, float]

    def to_json(self) -> str:
        """Serialise as one line; a value that is not finite becomes null."""
        finite = {name: value if math.isfinite(value) else None for name, value in self.values.items()}
        axes: dict[str, Any] = {"what": self.what, "step": self.step, "time": self.time}
        return dump({"version": self.VERSION, **axes, "attempt": self.attempt, "values": finite})

    @classmethod
    def upgraded(cls, data: dict[str, Any]) -> dict[str, Any]:
        """Drop values that are null because they were not finite."""
        values = data.get("values")
        if isinstance(values, dict):
            data["values"] = {name: value for name, value in values.items() if value is not None}
        return data


@dataclass(frozen=True)
class Metrics:
    """The points of a run's curves so far, in order of time; steps increase within each phase.

    `read_bytes` and `lines` say how much of the file has been read; `attempt` is the last start that added
    points.
    """

    points: tuple[Point, ...] = ()
    read_bytes: int = 0
    attempt: int = 0
    lines: int = 0

    @property
    def phases(self) -> tuple[str, ...]:
        """The phases in order; each counts its own steps."""
        return tuple(dict.fromkeys(point.what for point in self.points))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the curves, in order of first appearance."""
        return tuple(dict.fromkeys(name for point in self.points for name in point.values))

    def curve(self, name: str, what: str | None = None) -> tuple[list[int], list[float]]:
        """Steps and values of one curve, in one phase or in all of them."""
        found = [point for point in self.points if name in point.values and what in (None, point.what)]
        return [point.step for point in found], [point.values[name] for point in found]


def read_metrics(folder: Path, known: Metrics = Metrics()) -> Metrics:
    """Add what is new in the file to `known`; a line that is still being written is left for the next read.

    If a run continued from a checkpoint, points that an earlier attempt reported after that checkpoint are
    dropped. So is a line that a killed process left incomplete.

    Raises:
        ValueError: a complete line that is not a point of a curve, or more than `MOST_BYTES` at once.
    """
    file = folder / METRICS
    try:
        with open_regular(file) as stream:
            end = stream.seek(0, os.SEEK_END)
            if end < known.read_bytes:
                known = Metrics()  # the file has been replaced
            if end - known.read_bytes > MOST_BYTES:
                raise ValueError(
                    f"{file} is too large: {end:,} bytes, at most {MOST_BYTES:,} are read at once"
                )
            stream.seek(known.read_bytes)
            fresh = stream.read(end - known.read_bytes)
    except OSError:
        return known
    whole = fresh[: fresh.rfind(b"\n") + 1]
    if not whole:
        return known
    points, attempt, lines = list(known.points), known.attempt, whole.splitlines()
    for number, line in enumerate(lines, known.lines + 1):
        try:
            point = Point.from_json(line)
        except NotJson:
            continue  # left incomplete by a killed process
        except ValueError as error:
            raise in_file(f"{file}, line {number}", error) from error
        if point.attempt > attempt:
            del points[_first_superseded(points, point) :]
        attempt = max(attempt, point.attempt)
        points.append(point)
    return Metrics(tuple(points), known.read_bytes + len(whole), attempt, known.lines + len(lines))


def _first_superseded(points: list[Point], fresh: Point) -> int:
    """Index of the first point that a new attempt, whose first point is `fresh`, will report again."""
    same = [number for number, point in enumerate(points) if point.what == fresh.what]
    if not same:
        return len(points)
    begin, later = same[-1] + 1, math.inf
    while begin and points[begin - 1].what == fresh.what and fresh.step <= points[begin - 1].step <= later:
        later = points[begin - 1].step  # a higher step before it belongs to an earlier phase of that name
        begin -= 1
    while begin <= same[-1] and points[begin].step == fresh.step and _differ(points[begin], fresh):
        begin += 1  # reported before the checkpoint, and not again
    return begin


def _differ(one: Point, other: Point) -> bool:
    """Whether two points have no figure in common, such as the loss and the accuracy of one step."""
    return one.values.keys().isdisjoint(other.values)
