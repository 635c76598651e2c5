"""Gives cases to a process that may hang, eat memory or die, and says which of these happened."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz.cases import Case
from tests.support.models import ROOT

MOST_SECONDS = 10.0  # of the processor's time, which does not depend on what else the machine does
_EXPORTING = 30.0  # torch's exporters need nearly ten seconds for the smallest model, and tell no progress
_WAITING = 40.0  # by the clock, with hardly any work done: it waits for something that does not come
MOST_BYTES = 1_500_000_000
_START = 300.0  # seconds
_POLL = 0.1


@dataclass(frozen=True)
class Outcome:
    """How a case ended: `right`, `refused` in a sentence, or `fault`; with seconds and the peak of memory."""

    kind: str
    detail: str
    seconds: float
    peak: int


class Judge:
    """One process that tries cases; it is started again after it had to be killed."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self._process: subprocess.Popen[str] | None = None

    def __call__(self, case: Case) -> Outcome:
        """Try a case."""
        process = self._process or self._start()
        assert process.stdin is not None
        began, before = time.monotonic(), _processor_time(process.pid)
        process.stdin.write(case.to_json() + "\n")
        process.stdin.flush()
        while not self._answered(process, _POLL):
            used = _processor_time(process.pid) - before
            clock = time.monotonic() - began
            peak = _peak(process.pid)
            if process.poll() is not None:
                return self._killed(f"the process died with code {process.poll()}", used, peak)
            if peak > MOST_BYTES:
                return self._killed("too much memory", used, peak)
            most = _EXPORTING if case.words[:1] == ("export",) else MOST_SECONDS
            if used > most or (clock > _WAITING and used < clock / 20):
                return self._killed("a hang", clock, peak)
        used, peak = _processor_time(process.pid) - before, _peak(process.pid)
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            return self._killed(f"the process died with code {process.wait()}", used, peak)
        kind, detail = json.loads(line)
        return Outcome(kind, detail, used, peak)

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                with suppress(OSError):  # what was not yet read by the process is lost
                    if pipe is not None:
                        pipe.close()
            self._process = None

    def _start(self) -> subprocess.Popen[str]:
        environment = os.environ | {
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "PYTHONPATH": str(ROOT),
            "TMPDIR": str(self.place.parent),
        }
        for name in ("PRUNESCOPE_RUNS", "PRUNESCOPE_AT_ONCE", "MLFLOW_TRACKING_URI"):
            environment.pop(name, None)
        words = [sys.executable, "-m", "tests.fuzz.worker"]
        pipe = subprocess.PIPE
        process = subprocess.Popen(
            words, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True, cwd=ROOT, env=environment
        )
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(f"{self.place}\n")
        process.stdin.flush()
        if not self._answered(process, _START) or process.stdout.readline() != "ready\n":
            process.kill()
            raise RuntimeError("the process that tries cases did not start: try python -m tests.fuzz.worker")
        self._process = process
        return process

    def _answered(self, process: subprocess.Popen[str], patience: float) -> bool:
        assert process.stdout is not None
        return bool(select.select([process.stdout], [], [], patience)[0])

    def _killed(self, why: str, seconds: float, peak: int) -> Outcome:
        self.close()
        return Outcome("fault", why, seconds, peak)


@contextmanager
def judge(place: Path) -> Iterator[Judge]:
    """A judge with its valid files in a folder, which is made."""
    (place / "valid").mkdir(parents=True)
    one = Judge(place / "valid")
    try:
        one._start()
        yield one
    finally:
        one.close()


def _processor_time(process: int) -> float:
    try:
        words = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def _peak(process: int) -> int:
    """The most memory that a process had at once since it began its case, in bytes."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), 0)
