"""The queue: runs that wait have no process, go in turn, and are not lost when something is killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from pruning.runs import folder as runs
from pruning.runs import launch
from pruning.runs.file_lock import FileLock, is_held
from pruning.runs.folder import Run
from pruning.runs.process import execute
from pruning.runs.queue import dispatch, turns
from pruning.runs.status import Status, this_host
from tests.support.fake_runs import FakeJob, folder_of, status, wait_for, write_status

pytestmark = pytest.mark.usefixtures("fake_runs")


def state(run: Run) -> str:
    return runs.read(run.folder).state


def lock_of_dispatcher(root: Path) -> Path:
    return runs.dispatcher_lock(root, status(host=this_host(), device=turns.device()))


def processes(root: Path) -> dict[int, str]:
    """All processes that work on runs in this folder, and their command lines."""
    words = ["ps", "-e", "-ww", "-o", "pid,args"]
    listed = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    entries = (line.strip().partition(" ") for line in listed.splitlines() if str(root) in line)
    return {int(pid): command for pid, _, command in entries}


@pytest.mark.slow
@pytest.mark.usefixtures("start_fakes")
def test_waiting_runs_have_no_process_and_go_in_turn_even_past_a_killed_one(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    first = launch.start(FakeJob(100_000, pause=0.01))
    wait_for(lambda: state(first) == "running")
    others = [launch.start(FakeJob(3)) for _ in range(4)]
    assert [state(run) for run in others] == ["queued"] * 4
    assert {runs.read(run.folder).sentence for run in others} == {"Waiting for another run to finish"}
    assert all(run.status.waiting and run.status.pid is None for run in others)
    wait_for(lambda: len(processes(root)) == 2)  # the first run and the dispatcher
    with pytest.raises(ValueError, match="is already waiting for its turn; nothing was started"):
        execute(others[0].folder)

    launch.cancel(others[2])
    assert state(others[2]) == "cancelled"
    with pytest.raises(ValueError, match="is cancelled; only a queued or running run"):
        launch.cancel(others[2])

    os.kill(int(runs.read(first.folder).status.pid or 0), signal.SIGKILL)
    wait_for(lambda: all(state(others[i]) == "done" for i in (0, 1, 3)))
    assert state(first) == "interrupted" and state(others[2]) == "cancelled"
    began = [runs.read(others[i].folder).status.began for i in (0, 1, 3)]
    assert began == sorted(time or 0.0 for time in began)
    wait_for(lambda: not is_held(lock_of_dispatcher(root)))
    wait_for(lambda: not processes(root))


@pytest.mark.slow
@pytest.mark.usefixtures("start_fakes")
def test_runs_whose_dispatcher_was_killed_say_so_and_can_be_resumed(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    first = launch.start(FakeJob(100_000, pause=0.01))
    wait_for(lambda: state(first) == "running")
    second, third = (launch.start(FakeJob(3)) for _ in range(2))
    found = wait_for(lambda: [pid for pid, words in processes(root).items() if "--queue" in words])
    os.kill(found[0], signal.SIGKILL)
    wait_for(lambda: state(second) == "interrupted")
    assert runs.read(third.folder).sentence == "interrupted while it was queued"
    assert launch.resume(third).state == "queued"  # which starts a dispatcher, for both of them
    assert state(second) == "queued"
    launch.cancel(first)
    wait_for(lambda: state(second) == state(third) == "done")


def test_a_run_that_is_cancelled_while_it_waits_is_never_started(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    with FileLock(runs.dispatcher_lock(folder.parent, status(host="here", device="cpu"))) as lock:
        lock.take()
        write_status(folder, host="here", device="cpu", waiting=True)
        assert runs.read(folder).active and not runs.read(folder).resumable
        launch.cancel(folder)
    found = runs.read(folder)
    assert found.state == "cancelled" and not found.status.waiting and found.resumable
    assert not (folder / runs.CANCEL).exists()


def test_a_full_queue_refuses_in_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Path] = []
    monkeypatch.setattr(launch, "start_or_queue", lambda folder, lock: started.append(folder))
    folders = [folder_of(tmp_path, name=f"run {i}") for i in range(3)]
    with FileLock(runs.dispatcher_lock(tmp_path / "runs", status(host="here", device="cpu"))) as lock:
        lock.take()
        for folder in folders:
            write_status(folder, host="here", device="cpu", waiting=True)
        with pytest.raises(ValueError, match=r"^3 runs are waiting in .* and at most 3 may: cancel some"):
            launch.start(FakeJob(), most_waiting=3)
        launch.start(FakeJob(), most_waiting=4)
    assert len(started) == 1


def test_whose_turn_it_is(tmp_path: Path) -> None:
    """One slot or more; a longer waiting run goes first if it could use the slot; starting ones count."""
    mine = tmp_path / "runs" / "mine"

    def turn(
        at_once: int, *others: Status, held: tuple[int, ...] = (), starting: tuple[int, ...] = ()
    ) -> bool:
        listed = [(tmp_path / "runs" / str(i), other) for i, other in enumerate(others)]
        slots = [FileLock(file) for file in turns._slots(mine, waiting(5))]
        taken = [slots[i] for i in held]
        for number in starting:
            listed[number][0].mkdir(parents=True, exist_ok=True)
            taken.append(FileLock(listed[number][0] / runs.LOCK))
        for lock in taken:
            assert lock.take()
        try:
            return turns.turn_has_come(mine, waiting(at_once), listed)
        finally:
            for lock in taken:
                lock.close()

    def waiting(at_once: int, queued: float = 5.0, **changes: Any) -> Status:
        return status(
            at_once=at_once, queued=queued, **({"host": "here", "device": "cpu", "waiting": True} | changes)
        )

    (tmp_path / "runs").mkdir()
    assert turn(1) and not turn(1, held=(0,)) and turn(2, held=(0,)) and not turn(2, held=(0, 1))
    assert not turn(1, waiting(1, 4.0)) and turn(1, waiting(1, 6.0))
    assert turn(2, waiting(1, 4.0), held=(0,))  # which could not use slot 1 anyway
    assert turn(1, waiting(1, 4.0, host="elsewhere")) and turn(1, waiting(1, 4.0, device="cuda-0"))
    now = time.time()
    begun = waiting(1, 4.0, waiting=False, beat=now - 1)
    hung = waiting(1, 4.0, waiting=False, beat=now - 600)
    assert not turn(1, begun, starting=(0,)) and turn(1, hung, starting=(0,))
    assert turn(2, waiting(1, 6.0, waiting=False), starting=(0,))  # one of two slots is for the other
    later = waiting(2, 6.0, waiting=False, beat=now)
    assert not turn(2, later, held=(0,), starting=(0,))


def test_a_dispatcher_whose_folder_is_gone_ends(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    root.mkdir()
    with FileLock(lock_of_dispatcher(root)) as lock:
        assert lock.take()
        shutil.rmtree(root)
        assert dispatch._finished(root, lock)


def test_a_clock_that_is_ahead_is_no_sign_of_life(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    write_status(folder, state="running", host="elsewhere", pid=1, beat=time.time() + 3600)
    assert runs.read(folder).state == "interrupted"
    write_status(folder, state="running", host="elsewhere", pid=1, beat=time.time() + 20)
    assert runs.read(folder).state == "running"


@pytest.mark.parametrize(
    "damage", [{"host": "a\0b"}, {"host": "\ud800"}, {"device": "../x"}, {"limits": "/"}, {"at_once": 10**6}]
)
def test_a_status_that_makes_no_name_of_a_file_is_that_runs_alone(damage, tmp_path: Path) -> None:
    folder, sound = folder_of(tmp_path), folder_of(tmp_path, name="sound")
    write_status(sound, state="done")
    written = status(host="here", device="cpu", waiting=True).to_data() | damage
    (folder / runs.STATUS).write_text(json.dumps(written))
    found = {run.name: run for run in runs.list_runs()}
    assert found["sound"].state == "done" and found["run"].state == "failed"
    assert next(iter(damage)) in str(found["run"].problem)
    assert turns.queued_runs(tmp_path / "runs") == []
