"""The process that tries cases, one after the other: a case a line on standard input, an outcome a line back.

It may be killed at any time. A first line names the folder of valid files, which is made if it is empty.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import traceback
import warnings
from pathlib import Path

from analysis.setup import setup

setup()  # before torch is loaded

from pruning.runs import RunFailed
from tests.fuzz import valid
from tests.fuzz.cases import Case
from tests.fuzz.targets import MEANT, NEEDS, TARGETS, prepare, unclear


def main() -> None:
    """Try cases until standard input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    place = Path(sys.stdin.readline().strip())
    os.environ["PRUNESCOPE_CACHE"] = str(place.with_name("kept"))
    if not any(place.iterdir()):
        valid.make(place)
    prepare()
    work = Path(tempfile.mkdtemp(prefix="fuzz-work-", dir=place.parent))
    print("ready", file=answers, flush=True)
    for number, line in enumerate(sys.stdin):
        kind, detail = _try(Case.from_json(line), place, work / str(number))
        print(json.dumps([kind, detail]), file=answers, flush=True)


def _try(case: Case, place: Path, root: Path) -> tuple[str, str]:
    root.mkdir()
    for name in NEEDS[case.target]:
        source = place / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, root / name)
    case.put(root)
    os.chdir(root)
    Path("/proc/self/clear_refs").write_text("5")  # the peak of memory is that of this case
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            found = _outcome(case)
        return ("fault", f"a warning: {warned[0].message}") if warned else found
    finally:
        os.chdir(place)
        shutil.rmtree(root, ignore_errors=True)


def _outcome(case: Case) -> tuple[str, str]:
    try:
        code = TARGETS[case.target](case.words)
    except MEANT as error:
        said = str(error) or type(error).__name__
        if part := unclear(said):
            return "fault", f"a word of the inside of a library: {part} in {said!r:.400}"
        return "refused", said
    except RunFailed:
        return "fault", (Path(case.words[0]) / "log.txt").read_text()[-3000:]
    except BaseException:
        return "fault", traceback.format_exc()
    return ("refused", f"exit code {code}") if code else ("right", "")


if __name__ == "__main__":
    main()
