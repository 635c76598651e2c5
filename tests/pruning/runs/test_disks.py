"""Runs on full disks, and boards elsewhere that hear of a run."""

from __future__ import annotations

import errno
import json
import os
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pruning import files
from pruning.files import OutputError
from pruning.jobs import registry
from pruning.runs import folder as runs
from pruning.runs import launch, metrics, process
from pruning.runs.trackers import MLflow
from tests.support.fake_runs import FAKE, FakeJob, folder_of, names

pytestmark = pytest.mark.usefixtures("fake_runs")

# ---- full disks


def check_failed_by_a_full_disk(folder: Path) -> None:
    failed = runs.read(folder)
    assert failed.state == "failed" and failed.resumable
    assert failed.sentence == f"the disk is full: free some space on the disk of {folder} and resume the run"
    assert not [name for name in names(folder) if name.endswith(".part")]
    points = (folder / metrics.METRICS).read_text()
    assert points.endswith("\n") and all(json.loads(line) for line in points.splitlines())
    assert json.loads((folder / "checkpoint.json").read_text()) >= 1


@pytest.mark.parametrize("file", ["metrics.jsonl", "status.json", "checkpoint.json"])
def test_a_full_disk_ends_a_run_with_a_sentence(tmp_path, monkeypatch, file: str) -> None:
    """The error injected where one file is written; the room kept for the last words is enough."""
    folder = folder_of(tmp_path, FakeJob(100, pause=0.02))
    monkeypatch.setattr("pruning.runs.monitor.HEARTBEAT", 0.05)
    writes: list[bool] = []

    def full_when(handle: int) -> None:
        path = str(Path(f"/proc/self/fd/{handle}").readlink()) if Path("/proc").exists() else file
        full = (folder / ".reserve").exists() and file in path
        writes.append(full)
        if full and sum(writes) > 3:
            raise OSError(errno.ENOSPC, "No space left on device")

    def checked(given: Callable[..., Any]) -> Callable[..., Any]:
        def call(handle: int, *rest: object) -> Any:
            full_when(handle)
            return given(handle, *rest)

        return call

    monkeypatch.setattr(os, "write", checked(os.write))
    monkeypatch.setattr(os, "fsync", checked(os.fsync))
    with pytest.raises(OutputError, match="the disk is full: free some space"):
        process.execute(folder)
    check_failed_by_a_full_disk(folder)
    monkeypatch.undo()
    monkeypatch.setitem(registry.RUN_KINDS, "fake", FAKE)
    assert process.execute(folder).state == "done"
    assert metrics.read_metrics(folder).curve("loss")[0] == list(range(100))


def test_a_really_full_disk(small_disk: Callable[[str], Path]) -> None:
    folder = folder_of(small_disk("1m"), FakeJob(100, way="fills the disk"))
    with pytest.raises(OutputError, match="the disk is full: free some space"):
        process.execute(folder)
    check_failed_by_a_full_disk(folder)
    step = json.loads((folder / "checkpoint.json").read_text())
    assert 5 < step < 12
    with pytest.raises(OutputError, match="MiB are free on the disk of"):
        launch.resume(folder)
    (folder / "filler").unlink()
    (folder / runs.JOB).write_text(registry.pack(FakeJob(20)))
    assert process.execute(folder).state == "done"
    assert metrics.read_metrics(folder).curve("loss")[0] == list(range(20))


def test_no_run_is_started_on_a_disk_that_is_nearly_full(small_disk: Callable[[str], Path]) -> None:
    root = small_disk("1m") / "runs"
    with pytest.raises(OutputError, match=r"only 1 MiB are free on the disk of .*, a run needs 32"):
        launch.start(FakeJob(), root)
    assert list(root.iterdir()) == []


def test_too_full_for_the_last_words_shows_as_interrupted(tmp_path, monkeypatch) -> None:
    folder = folder_of(tmp_path)

    def full(path: Path, text: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pruning.runs.monitor.replace_text", full)
    with pytest.raises(OutputError, match="the disk is full"):
        process.execute(folder)
    assert runs.read(folder).state == "interrupted"


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), True),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), True),
        (RuntimeError("I/O error: No space left on device (os error 28)"), True),
        (OSError(errno.EACCES, "Permission denied"), False),
        (ValueError("writing is hard"), False),
    ],
)
def test_a_full_disk_is_recognised(tmp_path: Path, error: Exception, full: bool) -> None:
    outer = RuntimeError("the checkpoint could not be written")
    outer.__cause__ = error
    assert files.disk_full(error, tmp_path) == files.disk_full(outer, tmp_path) == full


# ---- other boards


class FakeMlflow(types.ModuleType):
    """Records calls; fails from `good` calls on."""

    def __init__(self, good: int = 100) -> None:
        super().__init__("mlflow")
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
        self.good = good

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)

        def called(*words: Any, **options: Any) -> Any:
            if len(self.calls) >= self.good:
                raise ConnectionError("no route")
            self.calls.append((name, words, options))
            return types.SimpleNamespace(info=types.SimpleNamespace(run_id="7"))

        return called


def test_mlflow_hears_of_a_run_and_of_its_resuming(tmp_path, monkeypatch) -> None:
    server = FakeMlflow()
    monkeypatch.setitem(sys.modules, "mlflow", server)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://localhost:1")
    folder = folder_of(tmp_path, FakeJob(2))
    process.execute(folder)
    params = {"steps": "2", "pause": "0.0", "way": "", "method": "counting"}
    assert server.calls == [
        ("set_experiment", ("prunescope",), {}),
        ("start_run", (), {"run_name": "run"}),
        ("log_params", (params,), {}),
        ("log_metrics", ({"Counting/loss": 1.0, "Counting/epoch": 0.0},), {"step": 0}),
        ("log_metrics", ({"Counting/loss": 0.5, "Counting/epoch": 0.0},), {"step": 1}),
        ("end_run", (), {"status": "FINISHED"}),
    ]
    again = MLflow(folder, {}, lambda line: None)
    again.close("cancelled")
    assert server.calls[-2:] == [("start_run", (), {"run_id": "7"}), ("end_run", (), {"status": "KILLED"})]


def test_mlflow_is_never_the_reason_why_a_run_fails(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://localhost:1")
    monkeypatch.setitem(sys.modules, "mlflow", FakeMlflow(good=4))
    assert process.execute(folder_of(tmp_path)).state == "done"
    log = runs.log(tmp_path / "runs" / "run")
    assert log.count("Logging to MLflow failed and was stopped: ConnectionError: no route") == 1
    monkeypatch.setitem(sys.modules, "mlflow", None)  # as if it were not installed
    assert process.execute(folder_of(tmp_path, name="other")).state == "done"
    assert "mlflow is not installed" in runs.log(tmp_path / "runs" / "other")
