"""What a run is made of: its status, its curves, its pace, its locks and its job."""

from __future__ import annotations

import errno
import json
import os
import signal
import threading
import time
import warnings
from pathlib import Path

import pytest

from pruning.cut.ratios import Ratios
from pruning.files import OutputError, append_line, replace_text
from pruning.jobs import registry
from pruning.jobs.prune_job import Job
from pruning.jobs.recover import RecoverJob
from pruning.runs import metrics
from pruning.runs.eta import RateEstimator
from pruning.runs.file_lock import FileLock, is_held
from pruning.runs.status import Status
from tests.support.fake_runs import names, point, status, wait_for

pytestmark = pytest.mark.usefixtures("fake_runs")

# ---- files


def test_a_status_comes_back_from_json() -> None:
    written = status(state="running", what="Counting", share=0.5, figures={"loss": 1.5}, pid=7)
    assert Status.from_json(written.to_json()) == written
    newer = json.dumps({**json.loads(written.to_json()), "mood": "good", "version": 2})
    with pytest.raises(
        ValueError, match=r"written by a later PruneScope \(version 2; this one reads up to 1\)"
    ):
        Status.from_json(newer)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "this is not JSON"),
        ('{"state": "running"', "this is not JSON"),
        ("[1]", "this must be an object"),
        ('{"state": "running"}', "`created` is missing"),
        ('{"state": "resting", "created": 1, "queued": 1, "beat": 1}', "one of queued, running"),
        ('{"state": "done", "created": "1", "queued": 1, "beat": 1}', "`created` must be a number, got text"),
        ('{"state": "done", "created": NaN, "queued": 1, "beat": 1}', "`created` must be a finite number"),
        (
            '{"state": "done", "created": 1, "queued": 1, "beat": 1, "pid": 1.5}',
            "`pid` must be a whole number",
        ),
        ('{"state": "done", "created": 1, "queued": 1, "beat": 1, "figures": [1]}', "`figures` must be"),
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


def test_curves_are_read_as_they_grow(tmp_path: Path) -> None:
    file, torn = tmp_path / metrics.METRICS, point(2, loss=0.5)
    assert metrics.read_metrics(tmp_path) == metrics.Metrics()
    file.write_text(point(0, loss=2.0) + point(1, loss=1.0, top1=0.5) + torn[:20])
    first = metrics.read_metrics(tmp_path)
    assert first.names == ("loss", "top1")
    assert first.curve("loss") == ([0, 1], [2.0, 1.0]) and first.curve("top1") == ([1], [0.5])
    with file.open("a") as stream:
        stream.write(torn[20:])
    second = metrics.read_metrics(tmp_path, first)
    assert second.curve("loss") == ([0, 1, 2], [2.0, 1.0, 0.5])
    assert metrics.read_metrics(tmp_path, second) is second
    assert metrics.read_metrics(tmp_path) == second
    file.write_text(point(7, loss=3.0))
    assert metrics.read_metrics(tmp_path, second).curve("loss") == ([7], [3.0])


def test_a_torn_line_and_figures_that_are_not_finite_are_left_out(tmp_path: Path) -> None:
    torn = '{"step": 1, "time": 0, "att\n\n\xff\n'
    text = point(0, loss=2.0) + torn + point(2, loss=float("nan"), top1=float("inf"), gap=1.0)
    (tmp_path / metrics.METRICS).write_bytes(text.encode("latin1"))
    found = metrics.read_metrics(tmp_path)
    assert found.curve("loss") == ([0], [2.0]) and found.curve("gap") == ([2], [1.0])
    assert found.names == ("loss", "gap") and found.read_bytes == len(text)


@pytest.mark.parametrize("line", ["[1]", '{"step": 1}', point(2, loss=0.5).replace("2", '"2"', 1)])
def test_a_line_that_was_edited_is_a_sentence(tmp_path: Path, line: str) -> None:
    """What is torn is no JSON; what is whole and wrong was not written by a run."""
    file = tmp_path / metrics.METRICS
    file.write_text(point(0, loss=2.0))
    known = metrics.read_metrics(tmp_path)
    file.write_text(file.read_text() + point(1, loss=1.0) + line.rstrip("\n") + "\n")
    for start in (metrics.Metrics(), known):
        with pytest.raises(ValueError, match=r"metrics\.jsonl, line 3(:| must be)"):
            metrics.read_metrics(tmp_path, start)


def test_too_long_a_file_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / metrics.METRICS).write_text(point(0, loss=2.0) * 3)
    known = metrics.read_metrics(tmp_path)
    monkeypatch.setattr(metrics, "MOST_BYTES", 100)
    assert metrics.read_metrics(tmp_path, known) is known
    with pytest.raises(ValueError, match=r"metrics\.jsonl is too large: [\d]+ bytes, at most 100 are read"):
        metrics.read_metrics(tmp_path)


def test_a_resumed_run_replaces_what_came_after_its_checkpoint(tmp_path: Path) -> None:
    lines = [point(step, loss=1.0) for step in range(5)] + [point(3, 2, loss=9.0), point(4, 2, loss=8.0)]
    (tmp_path / metrics.METRICS).write_text("".join(lines))
    assert metrics.read_metrics(tmp_path).curve("loss") == ([0, 1, 2, 3, 4], [1, 1, 1, 9, 8])
    (tmp_path / metrics.METRICS).write_text("".join(lines[:5]))
    known = metrics.read_metrics(tmp_path)
    (tmp_path / metrics.METRICS).write_text("".join(lines))
    assert metrics.read_metrics(tmp_path, known) == metrics.read_metrics(tmp_path)


@pytest.mark.parametrize("again", ["loss", "gap", "top1"])
def test_a_run_killed_between_two_figures_of_a_step_keeps_the_first(tmp_path: Path, again: str) -> None:
    """A checkpoint may fall between them: what came before it is not reported again."""
    names = ("loss", "gap", "top1")

    def figure(name: str, step: int, attempt: int, value: float) -> str:
        return metrics.Point("Training", step, 0.0, attempt, {name: value}).to_json()

    lines = [figure(name, 4, 1, 1.0) for name in names] + [figure(name, 8, 1, 1.0) for name in names[:2]]
    lines += [figure(name, 8, 2, 2.0) for name in names[names.index(again) :]]
    (tmp_path / metrics.METRICS).write_text("".join(lines))
    found = metrics.read_metrics(tmp_path)
    assert [found.curve(name)[0] for name in names] == [[4, 8]] * 3
    first = [1.0 if name in names[: names.index(again)] else 2.0 for name in names]
    assert [found.curve(name)[1][-1] for name in names] == first


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
    (tmp_path / metrics.METRICS).write_text("".join(lines))
    found = metrics.read_metrics(tmp_path)
    assert found.curve("loss")[0] == kept
    assert found.phases == tuple(dict.fromkeys(["Training", second]))
    assert [point.step for point in found.points if point.attempt == 2] == [step for _, step in again]


# ---- pace


def told(*calls: tuple[str, float, float]) -> RateEstimator:
    pace = RateEstimator()
    for what, share, now in calls:
        pace.update(what, share, now)
    return pace


def test_a_steady_pace_is_known_exactly() -> None:
    pace = told(*[("a", 0.01 * i, 2.0 * i) for i in range(31)])
    rate, left = pace.estimate(60.0)
    assert rate == pytest.approx(0.005) and left == pytest.approx(0.7 / 0.005)
    assert pace.estimate(70.0)[1] == pytest.approx(0.7 / 0.005 - 10)  # time goes on between two calls


def test_nothing_is_said_where_nothing_is_known() -> None:
    assert RateEstimator().estimate(1.0) == (None, None)
    assert told(("a", 0.0, 0.0)).estimate(5.0) == (None, None)
    assert told(("a", 0.5, 0.0), ("a", 0.5, 9.0)).estimate(9.0) == (None, None)
    assert told(("a", 0.0, 0.0), ("a", 0.01, 9.0)).estimate(9.0) == (pytest.approx(0.01 / 9), None)
    assert told(("a", 0.0, 0.0), ("a", 0.5, 5.0), ("a", 0.9, 9.0)).estimate(20.0)[1] is None  # overdue


def test_the_jump_of_a_resumed_run_counts_for_nothing() -> None:
    pace = told(("a", 0.0, 0.0), ("a", 0.6, 1.0), ("a", 0.61, 2.0), ("a", 0.62, 3.0))
    assert pace.estimate(3.0)[1] == pytest.approx(38.0)


def test_a_phase_keeps_its_pace_through_another_and_begins_anew_when_it_falls_back() -> None:
    training = [("train", 0.1 * i, 10.0 * i) for i in range(4)]
    testing = [("test", 0.5 * i, 30.0 + 5 * i) for i in range(3)]
    pace = told(*training, *testing, ("train", 0.4, 50.0))
    rate, left = pace.estimate(50.0)  # a step in 20 seconds where others took 10
    assert rate is not None and left is not None and 0.005 < rate < 0.01 and 60 < left < 120
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
    assert registry.unpack(registry.pack(job)) == ("prune", job)
    assert json.loads(registry.pack(job)) == {"kind": "prune"} | json.loads(job.to_json())
    recovery = RecoverJob("small", "demo", "demo", options=(("epochs", 3),))
    assert registry.unpack(registry.pack(recovery)) == ("recover", recovery)
    with pytest.raises(ValueError, match="no run takes a str"):
        registry.pack("job")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "this is not JSON"),
        ("[" * 100_000, "this is nested too deeply"),
        ("[]", "this must be an object with a `kind`, one of prune, recover"),
        ("3", "this must be an object with a `kind`"),
        ("{}", "this must be an object with a `kind`"),
        ('{"kind": "magic"}', "`kind` must be one of prune, recover, .*, got 'magic'"),
        ('{"kind": []}', r"`kind` must be one of prune, recover, .*, got \[\]"),
        ('{"kind": "prune"}', "`ratios` is missing"),
    ],
)
def test_what_is_no_job_is_a_sentence(text: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=f"^{sentence}"):
        registry.unpack(text)
