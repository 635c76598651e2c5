"""A kind of run that only tests know, which counts; and what tests of runs share.

The work is done in this process where that is enough; `start_fakes` makes the processes that the project
starts know it too.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from analysis.formats import Stored
from analysis.models.load import LoadedModel
from analysis.models.preprocess import Preprocess
from pruning.files import replace_text
from pruning.jobs import registry
from pruning.progress import Cancelled, Monitor
from pruning.runs import folder as runs
from pruning.runs import metrics, process
from pruning.runs.status import Status
from tests.support.models import TINY, random_vit

PATIENCE = 120.0  # seconds; a process needs three to import what it needs, and more on a busy machine


@dataclass(frozen=True)
class FakeJob(Stored):
    """Counts to `steps`, `pause` seconds each, keeping a checkpoint; `way` says what goes wrong."""

    steps: int = 3
    pause: float = 0.0
    way: str = ""
    method: str = "counting"


@dataclass(frozen=True)
class FakeResult:
    pruned: LoadedModel
    counted: int
    plan: None = None

    def report(self) -> dict[str, Any]:
        return {"method": "counting", "images": self.counted}


def count(job: FakeJob, monitor: Monitor) -> FakeResult:
    assert monitor.folder is not None
    checkpoint = monitor.folder / "checkpoint.json"
    begin = json.loads(checkpoint.read_text()) if checkpoint.exists() else 0
    monitor.note(f"from {begin}")
    for step in range(begin, job.steps):
        time.sleep(job.pause)
        monitor("Counting", step / job.steps)
        if job.way == "bad input":
            raise ValueError("the images are not there")
        if job.way == "bug":
            raise KeyError("heads")
        if job.way == "fills the disk":
            with (monitor.folder / "filler").open("ab", buffering=0) as file:
                file.write(bytes(100_000))
        monitor.metrics(step, loss=1 / (step + 1), epoch=step // 2, gap=float("nan"))
        replace_text(checkpoint, json.dumps(step + 1))
    loaded = LoadedModel(random_vit(TINY), Preprocess(TINY.image_size), "tiny", "test")
    return FakeResult(loaded, job.steps)


FAKE = registry.RunKind(FakeJob, count, "Counting", lambda job: "fake")


def folder_of(tmp_path: Path, job: FakeJob | None = None, name: str = "run") -> Path:
    """A run folder made by hand: a job is all it needs."""
    folder = tmp_path / "runs" / name
    folder.mkdir(parents=True)
    (folder / runs.JOB).write_text(registry.pack(job or FakeJob()))
    return folder


def status(**changes: Any) -> Status:
    now = time.time()
    return replace(Status("queued", now, now, now), **changes)


def write_status(folder: Path, **changes: Any) -> None:
    (folder / runs.STATUS).write_text(status(**changes).to_json())


def wait_for(what: Callable[[], Any], patience: float = PATIENCE) -> Any:
    end = time.monotonic() + patience
    while not (found := what()):
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)
    return found


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def in_thread(folder: Path, **options: Any) -> threading.Thread:
    """Carry out a run beside the test, as another process would."""

    def work() -> None:
        with contextlib.suppress(Cancelled, ValueError, OSError):  # how it ended is in its status
            process.execute(folder, **options)

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def point(step: int, attempt: int = 1, what: str = "Training", **values: float) -> str:
    """A line of metrics."""
    return metrics.Point(what, step, 0.0, attempt, values).to_json()
