"""Whatever lies in a file and whatever is typed: a right result, or one sentence within seconds.

A few cases of each target, the same every time; `make fuzz` tries others for as long as it is told. A case
that fails lies in build/fuzz, and `python -m tests.fuzz FILE` tries it again.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.fuzz import valid
from tests.fuzz.campaign import CAMPAIGN
from tests.fuzz.cases import Case, Special
from tests.fuzz.explore import Tally, explore, keep
from tests.fuzz.judge import Judge, judge
from tests.fuzz.targets import NEEDS, TARGETS
from tests.support.models import ROOT

CASES = dict.fromkeys(CAMPAIGN, 60) | {
    "command": 60,
    "resumed": 15,
    "finished": 40,
    "image": 150,
    "weights": 80,
}


@pytest.fixture(scope="module")
def tried(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Judge]:
    with judge(tmp_path_factory.mktemp("fuzz") / "place") as one:
        yield one


def test_every_target_has_cases_and_files() -> None:
    assert CAMPAIGN.keys() == TARGETS.keys() == NEEDS.keys()


def test_a_case_comes_back_from_json() -> None:
    case = Case("image", {"a": b"\xff\0", "b": Special("link", "c")}, ("caf\udce9", "\0"))
    assert Case.from_json(case.to_json()) == case


@pytest.mark.parametrize("target", CAMPAIGN)
def test_a_valid_file_and_a_few_others(tried: Judge, target: str) -> None:
    tally = Tally()
    explore(target, valid.files(tried.place), tried, tally, CASES[target], None)
    kept = [str(keep(case, outcome, ROOT / "build" / "fuzz")) for case, outcome in tally.faults.values()]
    assert not kept, "\n".join(
        [*kept, *tally.faults, *(one.detail[-3000:] for _, one in tally.faults.values())]
    )
    assert tally.cases >= CASES[target] * 0.8


@pytest.mark.slow
def test_runs_come_through_being_killed(tmp_path) -> None:
    words = [sys.executable, "-m", "tests.fuzz", "--minutes", "0", "--kills", "3"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path)}
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "3 kills" in done.stdout
