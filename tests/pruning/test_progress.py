"""Progress of several steps, reported as one."""

from __future__ import annotations

import pytest

from pruning.progress import Monitor, OneStep


class Told(Monitor):
    def __init__(self) -> None:
        self.shares: list[float] = []
        self.names: set[str] = set()

    def __call__(self, what: str, share: float) -> None:
        self.names.add(what)
        self.shares.append(share)


def test_several_steps_are_one_that_never_falls_back() -> None:
    told = Told()
    one = OneStep(told, "All", {"read": 1, "skipped": 2, "run": 4, "sum": 1})
    for what, share in (
        ("read", 0.5),
        ("start", 0.25),
        ("run", 0.0),
        ("run", 0.5),
        ("run", 0.25),
        ("sum", 1),
    ):
        one(what, share)
    assert told.names == {"All"}
    assert told.shares == pytest.approx([1 / 16, 1 / 16, 3 / 8, 5 / 8, 5 / 8, 1.0])
