"""Timing models as a run of its own."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from analysis.measure.speedup import Percentiles
from analysis.models.preprocess import Preprocess
from pruning import wording
from pruning.bundle.write import write_bundle
from pruning.cli.main import main
from pruning.jobs import bench, registry
from pruning.jobs.bench import TIMINGS, BenchJob, Timings, read_timings, run_bench
from pruning.progress import Cancelled, Monitor
from pruning.runs import folder as runs
from pruning.runs import launch, process
from tests.support.models import TINY, random_vit

JOB = BenchJob((("demo", None), ("vit tiny", "/data/w.pth"), ("small", None)), (1, 4), 1, 5)
EACH = {1: ((2.0,) * 30, (5.0,) * 30), 8: ((4.0, 5.0) * 30, (5.0, 4.0) * 30)}
TIMED = Timings.of_times(BenchJob((("a", None), ("b", "w"))), EACH, 2)


def bundle(folder: Path, arch: Any = TINY, seed: int = 0) -> str:
    write_bundle(folder, random_vit(arch, seed), Preprocess(arch.image_size), name="tiny", report={})
    return str(folder)


def test_job_survives_json_and_job_file() -> None:
    assert BenchJob.from_json(JOB.to_json()) == JOB and hash(JOB)
    assert registry.unpack(registry.pack(JOB)) == ("bench", JOB)


def test_its_commands_are_read_as_they_are_meant(capsys: pytest.CaptureFixture[str]) -> None:
    first, second = JOB.command().splitlines()
    assert "'vit tiny' --weights /data/w.pth --against demo" in first and "--model small" in second
    words = shlex.split(second)[3:]
    words[words.index("small")] = "/nowhere/small"
    assert main(words) == 2 and "/nowhere/small" in capsys.readouterr().err


def test_timings_survive_json_and_compare_any_two() -> None:
    again = Timings.from_json(TIMED.to_json())
    assert again == TIMED
    first, second = again.models
    assert again.of(second, 8) == Percentiles(4, 4.5, 5)
    assert again.between(first, second, 1).verdict == "faster"
    assert again.between(second, first, 1).speedup == pytest.approx(2 / 5)
    doubtful = again.between(first, second, 8)
    assert (doubtful.verdict, doubtful.rounds) == ("not distinguishable", 60)
    assert (doubtful.speedup_low, doubtful.speedup_high) == pytest.approx((4 / 5, 5 / 4))
    assert [again.rounds_of(batch) for batch in (1, 8)] == [30, 60]


def test_timings_without_rounds_have_no_interval() -> None:
    """As the release before wrote them."""
    old = json.loads(TIMED.to_json())
    del old["each"], old["version"]
    again = Timings.from_data(old)
    first, second = again.models
    timing = again.between(first, second, 1)
    assert (timing.speedup, timing.speedup_low, timing.speedup_high) == (5 / 2, None, None)
    assert timing.verdict == "verdict unknown" and not timing.decided and timing.rounds == 30
    assert wording.speedup(timing) == "2.50× (–), verdict unknown"


@pytest.mark.parametrize(
    ("each", "message"),
    [
        ([[1.0, 2.0]], "must have 2 entries, one for each model"),
        ([[1.0, 2.0], [1.0]], "the same rounds for each model"),
        ([[], []], "the same rounds for each model"),
        ([[1.0], [0.0]], "must be milliseconds above 0"),
    ],
)
def test_times_that_cannot_be_are_refused(each: list[list[float]], message: str) -> None:
    data = TIMED.to_data()
    with pytest.raises(ValueError, match=f"`each.1` {message}|`each.1` must have {message}"):
        Timings.from_data(data | {"each": data["each"] | {"1": each}})
    with pytest.raises(ValueError, match=r"`each.2` must have its percentiles"):
        Timings.from_data(data | {"each": {"2": [[1.0], [1.0]]}})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"models": (("a", None),)}, "two models or more"),
        ({"models": (("a", None), ("a", None))}, "each once"),
        ({"batches": ()}, "at least 1"),
        ({"batches": (0,)}, "at least 1"),
        ({"rounds": 0}, "at least 1"),
        ({"threads": -1}, "at least 1"),
        ({"threads": 0}, "at least 1"),
        ({"threads": 257}, "at most 256"),
        ({"batches": (1, 1025)}, "at most 1,024"),
        ({"rounds": 10_001}, "at most 10,000"),
    ],
)
def test_jobs_that_cannot_be_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BenchJob(**({"models": JOB.models} | change))


def test_bad_json_is_refused(tmp_path: Path) -> None:
    for text, sentence in (
        ("", "this is not JSON"),
        ("3", "this must be an object, got a whole number"),
        ("{}", "is missing"),
        ('{"models": [1], "batches": [1], "ms": {}}', r"`models\[0\]` must be a list, got a whole number"),
    ):
        for kind in (BenchJob, Timings):
            with pytest.raises(ValueError, match=sentence):
                kind.from_json(text)
    short = json.loads(TIMED.to_json())
    short["ms"]["1"].pop()
    (tmp_path / TIMINGS).write_text(json.dumps(short))
    with pytest.raises(ValueError, match=rf"{TIMINGS}: `ms.1` must have 2 entries, one for each model"):
        read_timings(tmp_path)
    with pytest.raises(ValueError, match="cannot be read"):
        read_timings(tmp_path / "nowhere")


def test_a_run_leaves_its_timings_and_is_not_done_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRUNESCOPE_RUNS", str(tmp_path / "runs"))
    models = tuple((bundle(tmp_path / name, seed=i), None) for i, name in enumerate("abc"))
    job = BenchJob(models, (1, 3), 1, 4)
    folder, lock = launch._create(job, runs.runs_root(), 1)
    lock.close()
    done = process.execute(folder)
    assert (done.state, done.bundle, done.error) == ("done", None, None)
    found = read_timings(folder)
    assert (found.models, set(found.ms), found.threads, found.rounds) == (models, {1, 3}, 1, 4)
    assert found.torch == torch.__version__
    for row in found.ms.values():
        assert len(row) == 3 and all(0 < p.p10 <= p.p50 <= p.p90 for p in row)
    assert {batch: len(times) for batch, times in found.each.items()} == {1: 3, 3: 3}
    assert {found.rounds_of(batch) for batch in (1, 3)} <= {8, 16, 32}  # four rounds decide nothing
    with pytest.raises(ValueError, match=r"is done: its result is in .*timings\.json"):
        process.execute(folder)
    assert runs.report(done) is None


def test_the_command_and_the_run_time_the_same_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both ask `take_turns` for the same thing, and judge the same figures alike."""
    asked: list[Any] = []

    def fake(runners: Any, *settings: Any, progress: Any, **named: Any) -> dict[int, Any]:
        asked.append((len(runners), settings, named))
        progress(1.0)
        return EACH

    monkeypatch.setattr(bench, "take_turns", fake)
    a, b = ((bundle(tmp_path / name, seed=i), None) for i, name in enumerate("ab"))
    job = BenchJob((a, b), (1, 8), 2, 4)
    found = run_bench(job)
    assert main([*shlex.split(job.command())[3:], "--json"]) == 0
    shape = (3, *TINY.image_size)
    assert asked == [
        (2, (shape, (1, 8)), {"threads": 2, "rounds": 4}),
        (2, (shape, [1, 8]), {"threads": 2, "rounds": 4}),
    ]
    printed = json.loads(capsys.readouterr().out)["batches"]
    for batch in (1, 8):
        assert printed[str(batch)] == asdict(found.between(a, b, batch))


def test_images_of_different_sizes_are_refused(tmp_path: Path) -> None:
    job = BenchJob(((bundle(tmp_path / "tiny"), None), ("demo", None)), (1,), rounds=1)
    with pytest.raises(ValueError, match="images of one size"):
        run_bench(job)


def test_it_can_be_cancelled(tmp_path: Path) -> None:
    class Stopping(Monitor):
        def __call__(self, what: str, share: float) -> None:
            raise Cancelled

    models = tuple((bundle(tmp_path / name), None) for name in "ab")
    with pytest.raises(Cancelled):
        run_bench(BenchJob(models, (1,)), Stopping())
