"""Draws cases of a target and tries them; what is learned is counted, and each kind of fault is kept once."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.fuzz.campaign import CAMPAIGN
from tests.fuzz.cases import Case, Valid
from tests.fuzz.judge import Judge, Outcome


@dataclass
class Tally:
    """How the cases of one target ended; times in seconds, memory in bytes."""

    cases: int = 0
    refused: int = 0
    seconds: float = 0.0
    longest: float = 0.0
    peak: int = 0
    faults: dict[str, tuple[Case, Outcome]] = field(default_factory=dict)  # one for each kind

    def add(self, case: Case, outcome: Outcome) -> None:
        """Count a case."""
        self.cases += 1
        self.refused += outcome.kind == "refused"
        self.seconds += outcome.seconds
        self.longest = max(self.longest, outcome.seconds)
        self.peak = max(self.peak, outcome.peak)
        if outcome.kind == "fault":
            self.faults.setdefault(_kind(outcome.detail), (case, outcome))


def explore(target: str, valid: Valid, judge: Judge, tally: Tally, cases: int, number: int | None) -> None:
    """Try so many cases: with a seed others than before, without one always the same."""

    @settings(
        max_examples=cases,
        derandomize=number is None,
        database=None,
        deadline=None,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    @given(CAMPAIGN[target](valid))
    def attempt(case: Case) -> None:
        tally.add(case, judge(case))

    (attempt if number is None else seed(number)(attempt))()


def keep(case: Case, outcome: Outcome, folder: Path) -> Path:
    """Keep a case that failed, to be tried again by `python -m tests.fuzz FILE`."""
    folder.mkdir(parents=True, exist_ok=True)
    text = case.to_json()
    name = f"{case.target}-{hashlib.blake2b(text.encode(), digest_size=4).hexdigest()}"
    (folder / f"{name}.json").write_text(text)
    (folder / f"{name}.txt").write_text(outcome.detail, errors="backslashreplace")
    return folder / f"{name}.json"


def _kind(detail: str) -> str:
    """What faults of one kind have in common: the error, and the lines of the project that it came from."""
    places = re.findall(r'File ".*?/((?:analysis|pruning)/\S+?)", line (\d+)', detail)
    last = (detail.strip().splitlines() or [""])[-1]
    return " ".join([*(f"{file}:{line}" for file, line in places[-2:]), re.sub(r"\d+|'.*'", "…", last)[:160]])
