"""`make fuzz`: random cases for some minutes, then runs killed at random moments; or one kept case again."""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

from analysis.setup import setup

setup()  # before torch is loaded

from tests.fuzz import valid
from tests.fuzz.campaign import CAMPAIGN
from tests.fuzz.cases import Case
from tests.fuzz.explore import Tally, explore, keep
from tests.fuzz.judge import judge
from tests.fuzz.kills import kill_and_resume
from tests.support.models import ROOT

AT_ONCE = 50  # cases of a target before the next one's turn
SHARES = {"command": 5, "finished": 2}  # of the time; those with more to try
KEPT = ROOT / "build" / "fuzz"


def main() -> int:
    """Try one kept case, or fuzz and print what was found; the exit code is 1 if anything failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("case", nargs="?", type=Path, help="a case that was kept")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--targets", nargs="*", default=list(CAMPAIGN), choices=list(CAMPAIGN))
    parser.add_argument("--kills", type=int, default=50, help="how many times runs are killed (default: 50)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="prunescope-fuzz-") as name:
        place = Path(name)
        if args.case is not None:
            return _again(args.case, place / "place")
        failed = _fuzz(args.targets, 60 * args.minutes, place / "place") if args.minutes else 0
        return (_kill(args.kills, place / "kills") if args.kills else 0) or failed


def _kill(kills: int, place: Path) -> int:
    place.mkdir()
    number, began = random.getrandbits(32), time.monotonic()
    try:
        count = kill_and_resume(place, kills, random.Random(number))
    except AssertionError as error:
        print(f"killed at random moments by the seed {number}: {error}")
        return 1
    print(f"{count.kills} kills, {count.runs} runs came through, {time.monotonic() - began:.0f} seconds")
    return 0


def _again(file: Path, place: Path) -> int:
    case = Case.from_json(file.read_text())
    with judge(place) as tried:
        outcome = tried(case)
    print(f"{case.target} {case.words}\n{outcome.kind}: {outcome.detail}")
    print(f"{outcome.seconds:.1f} s, {outcome.peak / 1e6:.0f} MB")
    return int(outcome.kind == "fault")


def _fuzz(targets: list[str], seconds: float, place: Path) -> int:
    began, tallies = time.monotonic(), {target: Tally() for target in targets}
    with judge(place) as tried:
        files = valid.files(tried.place)
        while time.monotonic() - began < seconds:
            # whoever has had the least time so far
            target = min(targets, key=lambda name: tallies[name].seconds / SHARES.get(name, 1))
            known = set(tallies[target].faults)
            explore(target, files, tried, tallies[target], AT_ONCE, random.getrandbits(32))
            for kind in tallies[target].faults.keys() - known:
                print(f"{target}: {kind}\n  {keep(*tallies[target].faults[kind], KEPT)}", flush=True)
    return _table(tallies)


def _table(tallies: dict[str, Tally]) -> int:
    print(f"{'target':12}{'cases':>9}{'refused':>9}{'seconds':>9}{'longest':>9}{'peak MB':>9}{'faults':>8}")
    for target, one in tallies.items():
        print(
            f"{target:12}{one.cases:9,}{one.refused:9,}{one.seconds:9,.0f}{one.longest:9.1f}"
            f"{one.peak / 1e6:9,.0f}{len(one.faults):8}"
        )
    cases, faults = (
        sum(counts) for counts in zip(*((t.cases, len(t.faults)) for t in tallies.values()), strict=True)
    )
    print(f"{cases:,} cases, {faults} kinds of faults")
    return int(faults > 0)


if __name__ == "__main__":
    sys.exit(main())
