from __future__ import annotations

import time
from typing import Any

import pytest
import torch

from analysis.measure.latency import Percentiles, bench, judge, percentiles, take_turns, torch_runner
from analysis.threads import threads
from tests.support.models import TINY, random_vit

SHAPE = (3, 16, 24)


def sleeper(milliseconds: float):
    return lambda images: time.sleep(milliseconds / 1000)


def test_a_clear_difference_is_told() -> None:
    timing = bench(sleeper(2), sleeper(40), SHAPE, [1], rounds=5, warmup=1)[1]
    assert timing.verdict == "faster"
    assert timing.speedup == pytest.approx(timing.b_ms.p50 / timing.a_ms.p50)
    assert 1 < timing.speedup < 25
    assert bench(sleeper(40), sleeper(2), SHAPE, [1], rounds=5, warmup=1)[1].verdict == "slower"


def test_overlap_is_not_distinguishable() -> None:
    timing = judge(percentiles([1.0, 2.0, 3.0]), percentiles([1.5, 2.5, 3.5]))
    assert timing.verdict == "not distinguishable"
    assert timing.speedup == 1.25


def test_percentiles_against_sorting() -> None:
    samples = [float(i) for i in (9, 3, 7, 1, 5, 10, 2, 8, 4, 6, 0)]
    found = percentiles(samples)
    assert (found.p10, found.p50, found.p90) == pytest.approx((1.0, 5.0, 9.0))


@pytest.mark.parametrize(
    ("a", "b", "verdict"),
    [
        ((1, 2, 3), (4, 5, 6), "faster"),
        ((4, 5, 6), (1, 2, 3), "slower"),
        ((1, 2, 4), (4, 5, 6), "not distinguishable"),
        ((1, 9, 9), (2, 2, 2), "not distinguishable"),
    ],
)
def test_verdict_is_that_of_the_intervals(a: tuple[int, ...], b: tuple[int, ...], verdict: str) -> None:
    timing = judge(Percentiles(*a), Percentiles(*b))
    assert (timing.verdict, timing.speedup) == (verdict, b[1] / a[1])


def test_any_number_take_turns_and_each_begins_as_often() -> None:
    calls: list[str] = []
    runners = [lambda _, name=name: calls.append(name) for name in "abc"]
    found = take_turns(runners, SHAPE, [1], rounds=6, warmup=0)
    rounds = ["".join(calls[start : start + 3]) for start in range(0, len(calls), 3)]
    assert rounds == ["abc", "bca", "cab"] * 2
    assert list(found) == [1] and len(found[1]) == 3


def test_nothing_to_time_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing to time"):
        take_turns([], SHAPE)


def test_runs_alternate_and_warm_up() -> None:
    calls: list[tuple[str, int]] = []
    shares: list[float] = []
    bench(
        lambda images: calls.append(("a", len(images))),
        lambda images: calls.append(("b", len(images))),
        SHAPE,
        [1, 8],
        rounds=3,
        warmup=1,
        progress=shares.append,
    )
    for batch in (1, 8):
        order = "".join(name for name, size in calls if size == batch)
        assert order in ("abbaabba", "baabbaab")
    assert shares == sorted(shares) and shares[-1] == 1.0


def test_thread_count_is_set_and_restored() -> None:
    before = torch.get_num_threads()
    seen = []
    model = random_vit(TINY)

    def run(images: torch.Tensor) -> object:
        seen.append(torch.get_num_threads())
        return torch_runner(model)(images)

    bench(run, run, SHAPE, [2], rounds=2, threads=1)
    assert set(seen) == {1}
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("settings", [{"batches": [0]}, {"batches": []}, {"rounds": 0}, {"threads": -1}])
def test_bad_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be at least 1"):
        bench(sleeper(0), sleeper(0), SHAPE, **settings)


def test_threads_restore_after_an_error() -> None:
    before = torch.get_num_threads()
    with pytest.raises(KeyError), threads(1):
        assert torch.get_num_threads() == 1
        raise KeyError
    assert torch.get_num_threads() == before
    with pytest.raises(ValueError, match="threads must be at least 1, got 0"), threads(0):
        pass
