"""Runs that survive: folders, locks, turns, cancelling, resuming, full disks, and processes that are killed.

The work is done by a kind of run that only these tests know, in this process where that is enough;
`start_fakes` makes the processes that the project starts know it too.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import types
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT, TINY, random_vit
from PIL import Image

from analysis.models import LoadedModel
from analysis.preprocess import Preprocess
from pruning import curves, kinds, runs, worker
from pruning import status as status_file
from pruning.__main__ import main
from pruning.boards import MLflow
from pruning.bundle import OutputError, is_bundle, write_bundle
from pruning.job import Job
from pruning.locks import FileLock, is_held
from pruning.monitor import Cancelled, Monitor
from pruning.pace import Pace
from pruning.recover import RecoverJob
from pruning.run_monitor import RunMonitor
from pruning.selection import Ratios
from pruning.status import Status, append_line, replace_text

PATIENCE = 120.0  # seconds; a process needs three to import what it needs, and more on a busy machine


# ---- a kind of run for tests


@dataclass(frozen=True)
class FakeJob:
    """Counts to `steps`, `pause` seconds each, keeping a checkpoint; `way` says what goes wrong."""

    steps: int = 3
    pause: float = 0.0
    way: str = ""
    method: str = "counting"

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> FakeJob:
        try:
            return cls(**json.loads(text))
        except TypeError as error:
            raise ValueError(f"not a fake job: {error}") from error


@dataclass(frozen=True)
class FakeResult:
    pruned: LoadedModel
    counted: int
    plan: None = None

    def report(self) -> dict[str, Any]:
        return {"method": "counting", "counted": self.counted}


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


FAKE = kinds.Kind(FakeJob, count, "Counting")


@pytest.fixture(autouse=True)
def _fake_kind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(kinds.KINDS, "fake", FAKE)
    monkeypatch.setenv("PRUNESCOPE_RUNS", str(tmp_path / "runs"))
    for name in ("MLFLOW_TRACKING_URI", "PRUNESCOPE_AT_ONCE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def start_fakes(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Processes that the project starts know the fake kind; none of them outlives the test."""
    code = (
        "import sys, test_runs as t; from pruning.__main__ import main\n"
        "t.kinds.KINDS['fake'] = t.kinds.Kind(t.FakeJob, t.count, ''); sys.exit(main())"
    )
    monkeypatch.setattr(worker, "_COMMAND", (sys.executable, "-c", code))
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "tests"))
    yield
    for run in runs.list_runs():
        if run.active and run.status.pid:
            os.kill(run.status.pid, signal.SIGKILL)


def folder_of(tmp_path: Path, job: FakeJob | None = None, name: str = "run") -> Path:
    """A run folder made by hand: a job is all it needs."""
    folder = tmp_path / "runs" / name
    folder.mkdir(parents=True)
    (folder / runs.JOB).write_text(kinds.pack(job or FakeJob()))
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
            worker.execute(folder, **options)

    thread = threading.Thread(target=work)
    thread.start()
    return thread


# ---- files


def test_a_status_comes_back_from_json() -> None:
    written = status(state="running", what="Counting", share=0.5, figures={"loss": 1.5}, pid=7)
    assert Status.from_json(written.to_json()) == written
    newer = json.dumps({**json.loads(written.to_json()), "mood": "good"})
    assert Status.from_json(newer) == written


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not the status of a run"),
        ('{"state": "running"', "not the status of a run"),
        ("[1]", "not the status of a run"),
        ('{"state": "running"}', "missing 3 required"),
        ('{"state": "resting", "created": 1, "queued": 1, "beat": 1}', "one of queued, running"),
        ('{"state": "done", "created": "1", "queued": 1, "beat": 1}', "created of a status must be float"),
        ('{"state": "done", "created": NaN, "queued": 1, "beat": 1}', "created of a status must be float"),
        ('{"state": "done", "created": 1, "queued": 1, "beat": 1, "pid": 1.5}', "pid of a status must be"),
        ('{"state": "done", "created": 1, "queued": 1, "beat": 1, "figures": [1]}', "figures of a status"),
    ],
)
def test_a_damaged_status_is_a_sentence(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Status.from_json(text)


def test_a_reader_never_sees_half_a_status(tmp_path: Path) -> None:
    file, over, seen = tmp_path / "status.json", threading.Event(), []
    texts = {status(what="x" * 5000 * (i % 2), figures={"a": float(i)}).to_json() for i in range(20)}
    replace_text(file, min(texts))

    def look() -> None:
        while not over.is_set():
            seen.append(file.read_text())
            time.sleep(0.0002)

    reader = threading.Thread(target=look)
    reader.start()
    for _ in range(25):
        for text in texts:
            replace_text(file, text)
    over.set()
    reader.join()
    assert len(seen) > 20 and set(seen) <= texts
    assert names(tmp_path) == ["status.json"]


def test_a_line_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "lines"
    append_line(file, "one")
    with file.open("a") as stream:
        stream.write("tor")  # as a killed process leaves it
    append_line(file, "two")
    assert file.read_text() == "one\ntor\ntwo\n"

    write = os.write

    def full(handle: int, data: bytes) -> int:
        if len(data) < 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(handle, data[:4])

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space left"):
        append_line(file, "a longer line")
    monkeypatch.undo()
    assert file.read_text() == "one\ntor\ntwo\n"


# ---- curves


def point(step: int, attempt: int = 1, what: str = "Training", **values: float) -> str:
    return curves.Point(what, step, 0.0, attempt, values).to_json() + "\n"


def test_curves_are_read_as_they_grow(tmp_path: Path) -> None:
    file, torn = tmp_path / curves.METRICS, point(2, loss=0.5)
    assert curves.metrics(tmp_path) == curves.Metrics()
    file.write_text(point(0, loss=2.0) + point(1, loss=1.0, top1=0.5) + torn[:20])
    first = curves.metrics(tmp_path)
    assert first.names == ("loss", "top1")
    assert first.curve("loss") == ([0, 1], [2.0, 1.0]) and first.curve("top1") == ([1], [0.5])
    with file.open("a") as stream:
        stream.write(torn[20:])
    second = curves.metrics(tmp_path, first)
    assert second.curve("loss") == ([0, 1, 2], [2.0, 1.0, 0.5])
    assert curves.metrics(tmp_path, second) is second
    assert curves.metrics(tmp_path) == second
    file.write_text(point(7, loss=3.0))
    assert curves.metrics(tmp_path, second).curve("loss") == ([7], [3.0])


def test_a_torn_line_and_figures_that_are_not_finite_are_left_out(tmp_path: Path) -> None:
    torn = '{"step": 1, "time": 0, "att\n[1]\n{"step": 1}\n\xff\n'
    text = point(0, loss=2.0) + torn + point(2, loss=float("nan"), top1=float("inf"), gap=1.0)
    (tmp_path / curves.METRICS).write_bytes(text.encode("latin1"))
    found = curves.metrics(tmp_path)
    assert found.curve("loss") == ([0], [2.0]) and found.curve("gap") == ([2], [1.0])
    assert found.names == ("loss", "gap") and found.read_bytes == len(text)


def test_a_resumed_run_replaces_what_came_after_its_checkpoint(tmp_path: Path) -> None:
    lines = [point(step, loss=1.0) for step in range(5)] + [point(3, 2, loss=9.0), point(4, 2, loss=8.0)]
    (tmp_path / curves.METRICS).write_text("".join(lines))
    assert curves.metrics(tmp_path).curve("loss") == ([0, 1, 2, 3, 4], [1, 1, 1, 9, 8])
    (tmp_path / curves.METRICS).write_text("".join(lines[:5]))
    known = curves.metrics(tmp_path)
    (tmp_path / curves.METRICS).write_text("".join(lines))
    assert curves.metrics(tmp_path, known) == curves.metrics(tmp_path)


@pytest.mark.parametrize(
    ("second", "again", "kept"),
    [
        ("Recovering", [("Recovering", 3), ("Recovering", 4)], [0, 1, 2, 3, 4, 0, 1, 2, 3, 4]),
        ("Recovering", [("Recovering", 0), ("Recovering", 1)], [0, 1, 2, 3, 4, 0, 1]),
        ("Recovering", [("Training", 3), ("Training", 4), ("Recovering", 0)], [0, 1, 2, 3, 4, 0]),
        ("Training", [("Training", 3), ("Training", 4)], [0, 1, 2, 3, 4, 0, 1, 2, 3, 4]),
        ("Training", [("Training", 0), ("Training", 1)], [0, 1, 2, 3, 4, 0, 1]),
    ],
)
def test_two_trainings_in_one_run(tmp_path, second, again, kept) -> None:
    """Steps begin anew; whatever was resumed, each training's curve has every step once."""
    lines = [point(step, what="Training", loss=1.0) for step in range(5)]
    lines += [point(step, what=second, loss=2.0) for step in range(5)]
    lines += [point(step, 2, what, loss=3.0) for what, step in again]
    (tmp_path / curves.METRICS).write_text("".join(lines))
    found = curves.metrics(tmp_path)
    assert found.curve("loss")[0] == kept
    assert found.phases == tuple(dict.fromkeys(["Training", second]))
    assert [point.step for point in found.points if point.attempt == 2] == [step for _, step in again]


# ---- pace


def told(*calls: tuple[str, float, float]) -> Pace:
    pace = Pace()
    for what, share, now in calls:
        pace.tell(what, share, now)
    return pace


def test_a_steady_pace_is_known_exactly() -> None:
    pace = told(*[("a", 0.01 * i, 2.0 * i) for i in range(31)])
    rate, left = pace.estimate(60.0)
    assert rate == pytest.approx(0.005) and left == pytest.approx(0.7 / 0.005)
    assert pace.estimate(70.0)[1] == pytest.approx(0.7 / 0.005 - 10)  # time goes on between two calls


def test_nothing_is_said_where_nothing_is_known() -> None:
    assert Pace().estimate(1.0) == (None, None)
    assert told(("a", 0.0, 0.0)).estimate(5.0) == (None, None)
    assert told(("a", 0.5, 0.0), ("a", 0.5, 9.0)).estimate(9.0) == (None, None)
    assert told(("a", 0.0, 0.0), ("a", 0.9, 9.0)).estimate(20.0)[1] is None  # overdue


def test_the_jump_of_a_resumed_run_counts_for_nothing() -> None:
    pace = told(("a", 0.0, 0.0), ("a", 0.6, 1.0), ("a", 0.61, 2.0), ("a", 0.62, 3.0))
    assert pace.estimate(3.0)[1] == pytest.approx(38.0)


def test_a_phase_keeps_its_pace_through_another_and_begins_anew_when_it_falls_back() -> None:
    training = [("train", 0.1 * i, 10.0 * i) for i in range(4)]
    testing = [("test", 0.5 * i, 30.0 + 5 * i) for i in range(3)]
    pace = told(*training, *testing, ("train", 0.4, 50.0))
    rate, left = pace.estimate(50.0)  # a step in 20 seconds where others took 10
    assert 0.005 < rate < 0.01 and 60 < left < 120
    assert told(*testing, ("test", 0.0, 60.0)).estimate(60.0) == (None, None)


def test_a_change_of_pace_is_noticed() -> None:
    slow = [("a", 0.001 * i, 10.0 * i) for i in range(11)]
    fast = [("a", 0.01 + 0.01 * i, 100.0 + 10 * i) for i in range(1, 11)]
    assert told(*slow, *fast).estimate(200.0)[0] == pytest.approx(0.001, rel=0.15)


# ---- locks


def test_a_lock_is_held_by_one_and_goes_with_it(tmp_path: Path) -> None:
    one, two = FileLock(tmp_path / "lock"), FileLock(tmp_path / "lock")
    assert not is_held(one.path)
    assert one.take() and is_held(one.path) and not two.take(patience=0.05)
    one.close()
    assert not is_held(one.path) and two.take(patience=0)
    two.close()
    with pytest.raises(ValueError, match="is not held"):
        two.handle()
    with pytest.raises(OutputError, match="could not be locked: No such file"):
        FileLock(tmp_path / "nowhere" / "lock").take()


def test_only_a_handle_of_the_lock_is_adopted(tmp_path: Path) -> None:
    with FileLock(tmp_path / "lock") as lock, (tmp_path / "other").open("w") as other:
        lock.take()
        with FileLock(tmp_path / "lock") as heir:
            for wrong in (other.fileno(), 99_999):
                with pytest.raises(ValueError, match="is not a lock on"):
                    heir.adopt(wrong)
            heir.adopt(os.dup(lock.handle()))
            lock.close()
            assert is_held(heir.path)
        assert not is_held(heir.path)


def test_a_forked_child_does_not_keep_a_lock(tmp_path: Path) -> None:
    with FileLock(tmp_path / "lock") as lock:
        lock.take()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside threads
            child = os.fork()
        if child == 0:
            time.sleep(20)
            os._exit(0)
    try:
        wait_for(lambda: not is_held(tmp_path / "lock"), 5)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


# ---- jobs


def test_a_job_comes_back_with_its_kind() -> None:
    job = Job("demo", "demo", "snp", ratios=Ratios(qk=(0.5, 0.25)), options=(("images", 16),))
    assert kinds.unpack(kinds.pack(job)) == ("prune", job)
    assert json.loads(kinds.pack(job)) == {"kind": "prune"} | json.loads(job.to_json())
    recovery = RecoverJob("small", "demo", "demo", options=(("epochs", 3),))
    assert kinds.unpack(kinds.pack(recovery)) == ("recover", recovery)
    with pytest.raises(ValueError, match="no run takes a str"):
        kinds.pack("job")


@pytest.mark.parametrize("text", ["", "[]", "3", "{}", '{"kind": "magic"}', '{"kind": []}', "[" * 100_000])
def test_what_is_no_job_is_a_sentence(text: str) -> None:
    with pytest.raises(ValueError, match="a kind, one of prune"):
        kinds.unpack(text)
    with pytest.raises(ValueError, match="not a PruneScope job"):
        kinds.unpack('{"kind": "prune"}')


# ---- reading


def test_states_of_folders_without_a_process(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    assert runs.read(folder).state == "interrupted"
    assert runs.read(folder).sentence == "interrupted before its turn came"
    for written, shown in [("queued", "interrupted"), ("running", "interrupted"), ("done", "done")]:
        write_status(folder, state=written)
        assert runs.read(folder).state == shown
    write_status(folder, state="running", began=time.time() - 500, beat=time.time() - 300)
    assert runs.read(folder).sentence == "interrupted: its process is gone, last seen 5 min ago"
    write_status(folder, state="failed", error="the images are not there")
    assert runs.read(folder).sentence == "the images are not there"
    write_status(folder, state="done", began=1000.0, ended=1030.0)
    assert runs.read(folder).sentence == "done after 30 s"


def test_a_process_that_lives_but_is_silent_is_said_to_be(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    with FileLock(folder / runs.LOCK) as lock:
        lock.take()
        write_status(folder, state="running", what="Counting", share=0.5, remaining=200.0)
        assert (runs.read(folder).state, runs.read(folder).sentence) == (
            "running",
            "Counting 50%, about 3 min left",
        )
        write_status(folder, state="running", what="Counting", share=0.5, beat=time.time() - 600)
        stale = runs.read(folder)
        assert stale.active and stale.sentence == "Counting 50%, no sign of life for 10 min"
        assert stale.silence == pytest.approx(600, abs=5)


def test_a_run_that_ends_while_it_is_read_is_not_called_interrupted(tmp_path, monkeypatch) -> None:
    folder = folder_of(tmp_path)
    write_status(folder, state="running")

    def ends(lock: Path) -> bool:
        write_status(folder, state="done")
        return False

    monkeypatch.setattr(runs, "is_held", ends)
    assert runs.read(folder).state == "done"


def test_a_run_on_another_machine_lives_by_its_heartbeat(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    write_status(folder, state="running", host="elsewhere", pid=1)
    assert runs.read(folder).state == "running"
    with pytest.raises(ValueError, match=r"running already .process 1 on elsewhere"):
        worker.execute(folder)
    write_status(folder, state="running", host="elsewhere", pid=1, beat=time.time() - 61)
    assert runs.read(folder).state == "interrupted"


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe", b'{"kind": "prune", "model": 3}', b'{"kind": "x"}']
)
def test_a_damaged_job_is_a_sentence(tmp_path: Path, content: bytes) -> None:
    folder = folder_of(tmp_path)
    (folder / runs.JOB).write_bytes(content)
    write_status(folder, state="cancelled")
    found = runs.read(folder)
    assert found.job is None and found.state == "cancelled" and not found.resumable
    assert "job.json cannot be read" in found.sentence and "\n" not in found.sentence
    assert json.loads(found.to_json())["error"] == found.problem
    for refused in (worker.resume, worker.execute):
        with pytest.raises(ValueError, match=r"job\.json cannot be read"):
            refused(folder)
    assert names(folder) == [runs.JOB, runs.STATUS]


def test_damaged_half_copied_and_foreign_folders_open(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    (folder / runs.STATUS).write_text("{")
    (folder / runs.JOB).with_name("bundle").mkdir()
    found = runs.read(folder)
    assert found.state == "failed" and "status.json cannot be read" in found.sentence
    assert found.resumable and found.bundle is None and runs.report(found) is None
    assert runs.log(folder) == ""
    for nothing in (tmp_path / "empty", tmp_path / "not there"):
        (tmp_path / "empty").mkdir(exist_ok=True)
        assert "holds no run" in runs.read(nothing).sentence
        with pytest.raises(ValueError, match=r"holds no run|is not a folder"):
            worker.execute(nothing)
    assert names(tmp_path / "empty") == []


def test_the_list_has_runs_alone_newest_first(tmp_path: Path) -> None:
    assert runs.list_runs() == [] and not (tmp_path / "runs").exists()
    for name, created in (("b", 1.0), ("a", 3.0), ("c", 2.0)):
        write_status(folder_of(tmp_path, name=name), state="done", created=created)
    (tmp_path / "runs" / "notes").mkdir()
    (tmp_path / "runs" / ".staged.part").mkdir()
    (tmp_path / "runs" / ".staged.part" / runs.JOB).touch()
    (tmp_path / "runs" / "file").touch()
    assert [run.name for run in runs.list_runs()] == ["a", "c", "b"]
    assert runs.list_runs(tmp_path / "runs") == runs.list_runs()
    with pytest.raises(ValueError, match="is a file, not a folder of runs"):
        runs.list_runs(tmp_path / "runs" / "file")


# ---- carrying out


def test_a_run_from_its_job_to_its_bundle(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = folder_of(tmp_path, FakeJob(4))
    heard = []
    done = worker.execute(folder, echo=lambda what, share: heard.append((what, share)))
    assert heard == [("Counting", i / 4) for i in range(4)] + [("Writing the result", 0.0)]
    assert done == runs.read(folder) and done.state == "done" and not done.resumable
    assert done.bundle is not None and runs.report(done)["counted"] == 4
    assert done.status.attempt == 1 and done.status.pid == os.getpid()
    assert (done.status.step, done.status.epoch, done.status.share) == (3, 1.0, 1.0)
    assert done.status.figures == {"loss": 0.25, "epoch": 1.0}
    found = curves.metrics(folder)
    assert found.curve("loss") == ([0, 1, 2, 3], [1, 1 / 2, 1 / 3, 1 / 4])
    assert found.curve("gap") == ([], [])
    board = EventAccumulator(str(folder / "tensorboard" / "counting")).Reload()
    assert [event.value for event in board.Scalars("loss")] == pytest.approx(found.curve("loss")[1])
    assert runs.log(folder).splitlines()[0].endswith(" from 0")
    assert runs.log(folder, lines=1).endswith(" done")
    assert not [name for name in names(folder) if name.startswith(".")]
    assert not is_held(folder / runs.LOCK)
    with pytest.raises(ValueError, match="is done: its result lies in"):
        worker.execute(folder)
    with pytest.raises(ValueError, match="is done: its result lies in"):
        worker.resume(done)


@pytest.mark.parametrize(
    ("way", "error", "sentence"),
    [
        ("bad input", ValueError, "the images are not there"),
        ("bug", worker.RunFailed, "an unexpected error ended the run, its log says where: KeyError: 'heads'"),
    ],
)
def test_a_failure_is_a_sentence_and_can_be_resumed(tmp_path, way, error, sentence) -> None:
    folder = folder_of(tmp_path, FakeJob(way=way))
    with pytest.raises(error, match=sentence):
        worker.execute(folder)
    failed = runs.read(folder)
    assert (failed.state, failed.sentence) == ("failed", sentence) and failed.resumable
    assert failed.bundle is None
    assert ("Traceback" in runs.log(folder)) == (way == "bug")
    (folder / runs.JOB).write_text(kinds.pack(FakeJob()))
    assert worker.execute(folder).state == "done" and runs.read(folder).error is None


def test_a_run_killed_before_its_last_words_has_its_bundle_and_needs_no_work(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, FakeJob(way="bad input"))
    bundle = folder / runs.BUNDLE
    write_bundle(bundle, random_vit(TINY), Preprocess(TINY.image_size), name="tiny", report={"counted": 3})
    write_status(folder, state="running")
    assert worker.execute(folder).state == "done"


def test_a_folder_taken_elsewhere_opens_and_goes_on_there(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, FakeJob(6, way="bad input"))
    write_status(folder, state="running", workdir=str(tmp_path / "of another machine"), attempt=1)
    (folder / "checkpoint.json").write_text("4")
    (folder / curves.METRICS).write_text("".join(point(step, what="Counting", loss=7.0) for step in range(6)))
    (folder / runs.JOB).write_text(kinds.pack(FakeJob(6)))
    there = Path(shutil.move(folder, tmp_path / "elsewhere"))
    assert runs.read(there).state == "interrupted"
    assert worker.execute(there).bundle == there / runs.BUNDLE
    assert curves.metrics(there).curve("loss") == ([0, 1, 2, 3, 4, 5], [7, 7, 7, 7, 1 / 5, 1 / 6])


def test_relative_paths_begin_where_the_job_was_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    kind = replace(FAKE, execute=lambda job, monitor: (seen.append(Path.cwd()), count(job, monitor))[1])
    monkeypatch.setitem(kinds.KINDS, "fake", kind)
    folder, before = folder_of(tmp_path), Path.cwd()
    write_status(folder, workdir=str(tmp_path))
    worker.execute(folder)
    assert seen == [tmp_path] and Path.cwd() == before


def test_the_heart_beats_through_a_long_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pruning.run_monitor.BEAT", 0.05)
    monkeypatch.setattr("pruning.run_monitor.ASK", 0.05)
    with RunMonitor(tmp_path, status()) as monitor:
        monitor("Counting", 0.25)
        first = wait_for(lambda: (s := runs.read_status(tmp_path)).share == 0.25 and s)
        wait_for(lambda: runs.read_status(tmp_path).beat > first.beat + 0.1)
        monitor("Counting", float("nan"))
        monitor("Counting", 7.0)
        assert monitor.status.share == 1.0
        (tmp_path / runs.CANCEL).touch()
        with pytest.raises(Cancelled):
            for _ in range(100):
                time.sleep(0.05)
                monitor("Counting", 0.5)


# ---- side by side


def test_cancelling_stops_within_seconds_and_keeps_what_there_is(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, FakeJob(10_000, pause=0.01))
    thread = in_thread(folder)
    wait_for((folder / "checkpoint.json").exists)
    asked = time.monotonic()
    assert main(["cancel", str(folder)]) == 0
    thread.join()
    assert time.monotonic() - asked < 5
    assert runs.read(folder).state == "cancelled" and runs.read(folder).resumable
    assert json.loads((folder / "checkpoint.json").read_text()) > 0
    with pytest.raises(ValueError, match="is cancelled; only a run that waits or works"):
        worker.cancel(folder)
    (folder / runs.JOB).write_text(kinds.pack(FakeJob(json.loads((folder / "checkpoint.json").read_text()))))
    assert worker.execute(folder).state == "done"  # the wish to cancel went with that attempt
    assert not (folder / runs.CANCEL).exists()


def test_nothing_runs_twice(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, FakeJob(200, pause=0.01))
    thread = in_thread(folder)
    wait_for(lambda: runs.read(folder).state == "running")
    for again in (worker.execute, worker.resume):
        with pytest.raises(ValueError, match="is running already"):
            again(folder)
    thread.join()
    assert runs.read(folder).state == "done" and runs.read(folder).status.attempt == 1


def test_runs_take_turns_in_the_order_they_came(tmp_path: Path) -> None:
    first, second, third, beside = (
        folder_of(tmp_path, FakeJob(40, pause=0.05), name) for name in ("first", "b", "a", "beside")
    )
    threads = [in_thread(first)]
    wait_for(lambda: runs.read(first).state == "running")
    for folder in (second, third):  # by time, not by name
        threads.append(in_thread(folder))
        wait_for(lambda folder=folder: "Waiting for another run" in runs.read(folder).sentence)
    threads.append(in_thread(beside, at_once=2))
    wait_for(lambda: runs.read(beside).state == "running")
    assert [runs.read(folder).state for folder in (first, second, third)] == ["running", "queued", "queued"]
    worker.cancel(beside)
    worker.cancel(third)  # while it waits
    wait_for(lambda: runs.read(third).state == "cancelled")
    for thread in threads:
        thread.join()
    one, two = runs.read(first).status, runs.read(second).status
    assert runs.read(first).state == runs.read(second).state == "done"
    assert two.began >= one.ended


def test_a_longer_waiting_run_goes_first_and_a_dead_one_holds_nobody_up(tmp_path: Path) -> None:
    mine, older = folder_of(tmp_path, name="mine"), folder_of(tmp_path, name="older")
    write_status(older, state="queued", queued=1.0)
    assert worker.execute(mine).state == "done"  # its process is gone
    (mine / "checkpoint.json").unlink()
    shutil.rmtree(mine / runs.BUNDLE)
    write_status(mine, state="interrupted")
    with FileLock(older / runs.LOCK) as lock:
        lock.take()
        thread = in_thread(mine)
        wait_for(lambda: "Waiting for another run" in runs.read(mine).sentence)
        write_status(older, state="queued", queued=1.0, beat=time.time() - 61)  # it hangs
        thread.join()
    assert runs.read(mine).state == "done"


# ---- full disks


def check_failed_by_a_full_disk(folder: Path) -> None:
    failed = runs.read(folder)
    assert failed.state == "failed" and failed.resumable
    assert failed.sentence == f"the disk is full: free some space where {folder} lies and resume the run"
    assert not [name for name in names(folder) if name.endswith(".part")]
    points = (folder / curves.METRICS).read_text()
    assert points.endswith("\n") and all(json.loads(line) for line in points.splitlines())
    assert json.loads((folder / "checkpoint.json").read_text()) >= 1


@pytest.mark.parametrize("file", ["metrics.jsonl", "status.json", "checkpoint.json"])
def test_a_full_disk_ends_a_run_with_a_sentence(tmp_path, monkeypatch, file: str) -> None:
    """The error injected where one file is written; the room kept for the last words is enough."""
    folder = folder_of(tmp_path, FakeJob(100, pause=0.02))
    monkeypatch.setattr("pruning.run_monitor.BEAT", 0.05)
    write, sync, writes = os.write, os.fsync, []

    def full_when(handle: int) -> None:
        path = str(Path(f"/proc/self/fd/{handle}").readlink()) if Path("/proc").exists() else file
        full = (folder / ".reserve").exists() and file in path
        writes.append(full)
        if full and sum(writes) > 3:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", lambda handle, data: (full_when(handle), write(handle, data))[1])
    monkeypatch.setattr(os, "fsync", lambda handle: (full_when(handle), sync(handle))[1])
    with pytest.raises(OutputError, match="the disk is full: free some space"):
        worker.execute(folder)
    check_failed_by_a_full_disk(folder)
    monkeypatch.undo()
    monkeypatch.setitem(kinds.KINDS, "fake", FAKE)
    assert worker.execute(folder).state == "done"
    assert curves.metrics(folder).curve("loss")[0] == list(range(100))


def test_a_really_full_disk(small_disk: Callable[[str], Path]) -> None:
    folder = folder_of(small_disk("1m"), FakeJob(100, way="fills the disk"))
    with pytest.raises(OutputError, match="the disk is full: free some space"):
        worker.execute(folder)
    check_failed_by_a_full_disk(folder)
    step = json.loads((folder / "checkpoint.json").read_text())
    assert 5 < step < 12
    with pytest.raises(OutputError, match="MiB are free where"):
        worker.resume(folder)
    (folder / "filler").unlink()
    (folder / runs.JOB).write_text(kinds.pack(FakeJob(20)))
    assert worker.execute(folder).state == "done"
    assert curves.metrics(folder).curve("loss")[0] == list(range(20))


def test_no_run_is_started_on_a_disk_that_is_nearly_full(small_disk: Callable[[str], Path]) -> None:
    root = small_disk("1m") / "runs"
    with pytest.raises(OutputError, match=r"only 1 MiB are free where .* lies, a run needs 32"):
        worker.start(FakeJob(), root)
    assert list(root.iterdir()) == []


def test_too_full_for_the_last_words_shows_as_interrupted(tmp_path, monkeypatch) -> None:
    folder = folder_of(tmp_path)

    def full(path: Path, text: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pruning.run_monitor.replace_text", full)
    with pytest.raises(OutputError, match="the disk is full"):
        worker.execute(folder)
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
    assert status_file.disk_full(error, tmp_path) == status_file.disk_full(outer, tmp_path) == full


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
    worker.execute(folder)
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
    assert worker.execute(folder_of(tmp_path)).state == "done"
    log = runs.log(tmp_path / "runs" / "run")
    assert log.count("MLflow failed, no more is sent to it: ConnectionError: no route") == 1
    monkeypatch.setitem(sys.modules, "mlflow", None)  # as if it were not installed
    assert worker.execute(folder_of(tmp_path, name="other")).state == "done"
    assert "mlflow is not installed" in runs.log(tmp_path / "runs" / "other")


# ---- the command line


def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = folder_of(tmp_path)
    assert main(["run", str(folder), "--json"]) == 0
    done = json.loads(capsys.readouterr().out)
    assert done["state"] == "done" and done["run"] == str(folder) and done["counted"] == 3
    assert is_bundle(Path(done["out"]))
    assert main(["runs", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert listed["root"] == str(tmp_path / "runs")
    assert [run["state"] for run in listed["runs"]] == ["done"]
    assert listed["runs"][0]["job"] == json.loads(FakeJob().to_json())
    assert main(["runs", "--root", str(tmp_path / "runs")]) == 0
    assert capsys.readouterr().out.startswith("run                  done         done after")


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["run", "nowhere"], 2, "is not a folder"),
        (["run", "DONE"], 2, "is done"),
        (["resume", "DONE", "--detach"], 2, "is done"),
        (["cancel", "DONE"], 2, "is done; only a run"),
        (["run", "BAD"], 2, "the images are not there"),
        (["run", "BUG"], 1, "an unexpected error"),
        (["run", "DONE", "--lock-handle", "99999"], 2, "is not a lock on"),
        (["run", "BAD", "--at-once", "0"], 2, "at least 1 run"),
        (["prune", "--model", "m", "--data", "d", "--qk", ".5", "--out", "x", "--detach"], 2, "leave --out"),
        (["prune", "--model", "m", "--data", "d", "--qk", ".5"], 2, "--out DIR, or --detach"),
        (
            ["prune", "--model", "m", "--data", "d", "--qk", ".5", "--run", "--at-once", "0"],
            2,
            "at least 1 run",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_exit_codes(tmp_path, monkeypatch, capsys, words, code, message) -> None:
    monkeypatch.chdir(tmp_path)
    write_status(folder_of(tmp_path, name="DONE"), state="done")
    folder_of(tmp_path, FakeJob(way="bad input"), "BAD")
    folder_of(tmp_path, FakeJob(way="bug"), "BUG")
    words = [str(tmp_path / "runs" / word) if word.isupper() else word for word in words]
    assert main(words) == code
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_cancelled_in_the_foreground(tmp_path: Path, monkeypatch, capsys) -> None:
    def stop(job: FakeJob, monitor: Monitor) -> FakeResult:
        raise Cancelled

    monkeypatch.setitem(kinds.KINDS, "fake", replace(FAKE, execute=stop))
    folder = folder_of(tmp_path)
    assert main(["run", str(folder)]) == 1
    assert capsys.readouterr().err == "cancelled\n"
    assert runs.read(folder).state == "cancelled"


# ---- processes


@pytest.fixture
def tiny_data(tmp_path: Path) -> tuple[str, str]:
    """A tiny model as a bundle, and a folder of noise for it."""
    labels = tuple(f"c{i}" for i in range(TINY.num_classes))
    write_bundle(
        tmp_path / "tiny",
        random_vit(TINY),
        Preprocess(TINY.image_size, labels=labels),
        name="tiny",
        report={"method": "none"},
    )
    draw = np.random.default_rng(0)
    for label in labels:
        (tmp_path / "images" / label).mkdir(parents=True)
        for number in range(4):
            pixels = draw.integers(0, 256, (*TINY.image_size, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / label / f"{number}.png")
    return "tiny", "images"  # relative: the run must find them


def test_a_detached_run_outlives_the_command_that_started_it(tmp_path, tiny_data) -> None:
    model, data = tiny_data
    words = ["--model", model, "--data", data, "--method", "l1", "--mlp", "0.5", "--detach", "--json"]
    begun = subprocess.run(
        [sys.executable, "-m", "pruning", "prune", *words],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    folder = Path(json.loads(begun.stdout)["run"])
    assert folder.parent == tmp_path / "runs" and folder.name.endswith("-prune-l1")
    assert runs.read(folder).state in ("queued", "running", "done")  # never as if its process were gone
    with pytest.raises(ValueError, match=r"is running already|is done"):
        worker.execute(folder)
    done = wait_for(lambda: (run := runs.read(folder)).state not in ("queued", "running") and run)
    assert done.state == "done", runs.log(folder)
    report = runs.report(done)
    assert report["params_after"] < report["params_before"] and report["method"] == "l1"
    assert done.status.workdir == str(tmp_path)
    assert str(done.bundle) in runs.log(folder)  # what the command prints


@pytest.mark.slow
@pytest.mark.usefixtures("start_fakes")
def test_cancelled_resumed_killed_and_resumed_again(tmp_path: Path) -> None:
    run = worker.start(FakeJob(600, pause=0.01))
    assert run.active and run.folder.parent == tmp_path / "runs"
    state = lambda: runs.read(run.folder).state
    wait_for(lambda: len(curves.metrics(run.folder).points) > 5)
    assert state() == "running" and os.getsid(runs.read(run.folder).status.pid) != os.getsid(0)
    asked = time.monotonic()
    worker.cancel(run)
    wait_for(lambda: state() == "cancelled")
    assert time.monotonic() - asked < 10
    first = len(curves.metrics(run.folder).points)

    again = worker.resume(run)
    assert again.active
    with pytest.raises(ValueError, match="is running already"):
        worker.resume(run)
    wait_for(lambda: len(curves.metrics(run.folder).points) > first + 5)
    pid = runs.read(run.folder).status.pid
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: state() == "interrupted")
    assert runs.read(run.folder).sentence.startswith("interrupted: its process is gone")
    wait_for(lambda: not exists(pid))  # no zombie stays

    assert main(["resume", str(run.folder), "--detach"]) == 0
    wait_for(lambda: state() == "done")
    assert curves.metrics(run.folder).curve("loss")[0] == list(range(600))
    assert runs.read(run.folder).status.attempt == 3
    begins = [line.rpartition("from ")[2] for line in runs.log(run.folder).splitlines() if " from " in line]
    assert begins[0] == "0" and len(begins) == 3 and 0 < int(begins[1]) < int(begins[2])


def exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return True
    except ProcessLookupError:
        return False


@pytest.mark.usefixtures("start_fakes")
def test_a_run_cancelled_before_its_process_has_started_never_begins(tmp_path: Path) -> None:
    run = worker.start(FakeJob(100_000, pause=0.01))
    worker.cancel(run)
    wait_for(lambda: not runs.read(run.folder).active)
    assert runs.read(run.folder).state == "cancelled"
    assert not (run.folder / runs.BUNDLE).exists()
