"""Runs that survive: reading their folders, carrying them out, turns, cancelling and resuming."""

from __future__ import annotations

import json
import os
import shutil
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from analysis.models.preprocess import Preprocess
from pruning.bundle.write import write_bundle
from pruning.cli.main import main
from pruning.jobs import registry
from pruning.progress import Cancelled, Monitor
from pruning.runs import folder as runs
from pruning.runs import launch, metrics, process
from pruning.runs.file_lock import FileLock, is_held
from pruning.runs.monitor import RunMonitor
from tests.support.fake_runs import (
    FAKE,
    FakeJob,
    count,
    folder_of,
    in_thread,
    names,
    point,
    status,
    wait_for,
    write_status,
)
from tests.support.models import TINY, random_vit

pytestmark = pytest.mark.usefixtures("fake_runs")

# ---- reading


def test_states_of_folders_without_a_process(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    assert runs.read(folder).state == "interrupted"
    assert runs.read(folder).sentence == "interrupted while it was queued"
    for written, shown in [("queued", "interrupted"), ("running", "interrupted"), ("done", "done")]:
        write_status(folder, state=written)
        assert runs.read(folder).state == shown
    write_status(folder, state="running", began=time.time() - 500, beat=time.time() - 300)
    assert runs.read(folder).sentence == "interrupted: its process is gone, last heartbeat 5 min ago"
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
        assert stale.active and stale.sentence == "Counting 50%, no heartbeat for 10 min"
        assert stale.since_heartbeat == pytest.approx(600, abs=5)


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
    with pytest.raises(ValueError, match=r"already running .process 1 on elsewhere"):
        process.execute(folder)
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
    assert str(folder / "job.json") in found.sentence and "\n" not in found.sentence
    assert json.loads(found.to_json())["error"] == found.problem
    for refused in (launch.resume, process.execute):
        with pytest.raises(ValueError, match=r"job\.json"):
            refused(folder)
    assert names(folder) == [runs.JOB, runs.STATUS]


def test_damaged_half_copied_and_foreign_folders_open(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    (folder / runs.STATUS).write_text("{")
    (folder / runs.JOB).with_name("bundle").mkdir()
    found = runs.read(folder)
    assert found.state == "failed" and "status.json is not JSON" in found.sentence
    assert found.resumable and found.bundle is None and runs.report(found) is None
    assert runs.log(folder) == ""
    for nothing in (tmp_path / "empty", tmp_path / "not there"):
        (tmp_path / "empty").mkdir(exist_ok=True)
        assert "is no run folder" in runs.read(nothing).sentence
        with pytest.raises(ValueError, match="is no run folder"):
            process.execute(nothing)
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
    done = process.execute(folder, progress=lambda what, share: heard.append((what, share)))
    assert heard == [("Counting", i / 4) for i in range(4)] + [("Writing the result", 0.0)]
    assert done == runs.read(folder) and done.state == "done" and not done.resumable
    report = runs.report(done)
    assert done.bundle is not None and report is not None and report.images == 4
    assert done.status.attempt == 1 and done.status.pid == os.getpid()
    assert (done.status.step, done.status.epoch, done.status.share) == (3, 1.0, 1.0)
    assert done.status.figures == {"loss": 0.25, "epoch": 1.0}
    found = metrics.read_metrics(folder)
    assert found.curve("loss") == ([0, 1, 2, 3], [1, 1 / 2, 1 / 3, 1 / 4])
    assert found.curve("gap") == ([], [])
    board = EventAccumulator(str(folder / "tensorboard" / "counting")).Reload()
    assert [event.value for event in board.Scalars("loss")] == pytest.approx(found.curve("loss")[1])
    assert runs.log(folder).splitlines()[0].endswith(" from 0")
    assert runs.log(folder, lines=1).endswith(" done")
    assert not [name for name in names(folder) if name.startswith(".")]
    assert not is_held(folder / runs.LOCK)
    with pytest.raises(ValueError, match="is done: its result is in"):
        process.execute(folder)
    with pytest.raises(ValueError, match="is done: its result is in"):
        launch.resume(done)


@pytest.mark.parametrize(
    ("way", "error", "sentence"),
    [
        ("bad input", ValueError, "the images are not there"),
        (
            "bug",
            process.RunFailed,
            "an unexpected error ended the run, see its log: KeyError: 'heads'",
        ),
    ],
)
def test_a_failure_is_a_sentence_and_can_be_resumed(tmp_path, way, error, sentence) -> None:
    folder = folder_of(tmp_path, FakeJob(way=way))
    with pytest.raises(error, match=sentence):
        process.execute(folder)
    failed = runs.read(folder)
    assert (failed.state, failed.sentence) == ("failed", sentence) and failed.resumable
    assert failed.bundle is None
    assert ("Traceback" in runs.log(folder)) == (way == "bug")
    (folder / runs.JOB).write_text(registry.pack(FakeJob()))
    assert process.execute(folder).state == "done" and runs.read(folder).error is None


def test_a_run_killed_before_its_last_words_has_its_bundle_and_needs_no_work(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, FakeJob(way="bad input"))
    bundle = folder / runs.BUNDLE
    write_bundle(bundle, random_vit(TINY), Preprocess(TINY.image_size), name="tiny", report={"images": 3})
    write_status(folder, state="running")
    assert process.execute(folder).state == "done"


def test_a_folder_taken_elsewhere_opens_and_goes_on_there(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, FakeJob(6, way="bad input"))
    write_status(folder, state="running", workdir=str(tmp_path / "of another machine"), attempt=1)
    (folder / "checkpoint.json").write_text("4")
    (folder / metrics.METRICS).write_text(
        "".join(point(step, what="Counting", loss=7.0) for step in range(6))
    )
    (folder / runs.JOB).write_text(registry.pack(FakeJob(6)))
    there = Path(shutil.move(folder, tmp_path / "elsewhere"))
    assert runs.read(there).state == "interrupted"
    assert process.execute(there).bundle == there / runs.BUNDLE
    assert metrics.read_metrics(there).curve("loss") == ([0, 1, 2, 3, 4, 5], [7, 7, 7, 7, 1 / 5, 1 / 6])


def test_relative_paths_begin_where_the_job_was_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def noted(job: FakeJob, monitor: Monitor) -> Any:
        seen.append(Path.cwd())
        return count(job, monitor)

    monkeypatch.setitem(registry.RUN_KINDS, "fake", replace(FAKE, execute=noted))
    folder, before = folder_of(tmp_path), Path.cwd()
    write_status(folder, workdir=str(tmp_path))
    process.execute(folder)
    assert seen == [tmp_path] and Path.cwd() == before


def test_the_heart_beats_through_a_long_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pruning.runs.monitor.HEARTBEAT", 0.05)
    monkeypatch.setattr("pruning.runs.monitor.CANCEL_POLL", 0.05)
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
    with pytest.raises(ValueError, match="is cancelled; only a queued or running run"):
        launch.cancel(folder)
    (folder / runs.JOB).write_text(
        registry.pack(FakeJob(json.loads((folder / "checkpoint.json").read_text())))
    )
    assert process.execute(folder).state == "done"  # the cancel request applied to that attempt only
    assert not (folder / runs.CANCEL).exists()


def test_nothing_runs_twice(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, FakeJob(200, pause=0.01))
    thread = in_thread(folder)
    wait_for(lambda: runs.read(folder).state == "running")
    for again in (process.execute, launch.resume):
        with pytest.raises(ValueError, match="is already running"):
            again(folder)
    thread.join()
    assert runs.read(folder).state == "done" and runs.read(folder).status.attempt == 1


def waits(folder: Path) -> bool:
    return "Waiting for another run" in runs.read(folder).sentence


def test_runs_take_turns_in_the_order_they_came(tmp_path: Path) -> None:
    first, second, third, beside = (
        folder_of(tmp_path, FakeJob(40, pause=0.05), name) for name in ("first", "b", "a", "beside")
    )
    threads = [in_thread(first)]
    wait_for(lambda: runs.read(first).state == "running")
    for folder in (second, third):  # by time, not by name
        threads.append(in_thread(folder))
        wait_for(partial(waits, folder))
    threads.append(in_thread(beside, at_once=2))
    wait_for(lambda: runs.read(beside).state == "running")
    assert [runs.read(folder).state for folder in (first, second, third)] == ["running", "queued", "queued"]
    launch.cancel(beside)
    launch.cancel(third)  # while it waits
    wait_for(lambda: runs.read(third).state == "cancelled")
    for thread in threads:
        thread.join()
    one, two = runs.read(first).status, runs.read(second).status
    assert runs.read(first).state == runs.read(second).state == "done"
    # a slot is free a moment before its run writes that it has ended
    assert two.began is not None and one.ended is not None and two.began >= one.ended - 1


def test_a_longer_waiting_run_goes_first_and_a_dead_one_holds_nobody_up(tmp_path: Path) -> None:
    mine, older = folder_of(tmp_path, name="mine"), folder_of(tmp_path, name="older")
    write_status(older, state="queued", queued=1.0)
    assert process.execute(mine).state == "done"  # its process is gone
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
