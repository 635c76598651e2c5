from __future__ import annotations

import time
from typing import Any

import pytest
import torch

from analysis.measure.latency import MOST_BATCH, bench, take_turns, torch_runner
from analysis.threads import MOST_THREADS, threads
from tests.support.models import TINY, random_vit

SHAPE = (3, 16, 24)


def sleeper(milliseconds: float):
    return lambda images: time.sleep(milliseconds / 1000)


def test_a_clear_difference_is_told() -> None:
    timing = bench(sleeper(2), sleeper(40), SHAPE, [1], rounds=5, warmup=1)[1]
    assert timing.verdict == "faster" and timing.rounds in (10, 20)  # five rounds decide nothing
    assert timing.speedup_low is not None and timing.speedup_high is not None
    assert 1 < timing.speedup_low <= timing.speedup <= timing.speedup_high < 25
    assert bench(sleeper(40), sleeper(2), SHAPE, [1], rounds=5, warmup=1)[1].verdict == "slower"


def test_any_number_take_turns_in_an_order_that_chance_decides() -> None:
    def orders() -> list[str]:
        calls: list[str] = []
        runners = [lambda _, name=name: calls.append(name) for name in "abc"]
        found = take_turns(runners, SHAPE, [1], rounds=60, looks=1, warmup=0)
        assert list(found) == [1] and [len(times) for times in found[1]] == [60] * 3
        return ["".join(calls[start : start + 3]) for start in range(0, len(calls), 3)]

    rounds = orders()
    assert {"".join(sorted(order)) for order in rounds} == {"abc"}
    assert len(set(rounds)) == 6
    for name in "abc":
        assert 10 <= sum(order[0] == name for order in rounds) <= 30
    assert orders() == rounds  # the same in every measurement
    alternating = sum(one == other for one, other in zip(rounds, rounds[3:], strict=False))
    assert alternating < 30  # no cycle


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
        looks=1,
        warmup=1,
        progress=shares.append,
    )
    for batch in (1, 8):
        order = "".join(name for name, size in calls if size == batch)
        assert {order[start : start + 2] for start in range(0, len(order), 2)} <= {"ab", "ba"}
        assert len(order) == 2 * (1 + 3)
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


@pytest.mark.parametrize(
    "settings", [{"batches": [0]}, {"batches": []}, {"rounds": 0}, {"looks": 0}, {"threads": -1}]
)
def test_bad_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be at least 1"):
        bench(sleeper(0), sleeper(0), SHAPE, **settings)


def test_threads_restore_after_an_error() -> None:
    before = torch.get_num_threads()
    with pytest.raises(KeyError), threads(1):
        assert torch.get_num_threads() == 1
        raise KeyError
    assert torch.get_num_threads() == before
    with pytest.raises(ValueError, match="threads must be at least 1 and at most 256, got 0"), threads(0):
        pass


def test_the_most_threads_and_images_that_are_allowed_do_not_end_the_process() -> None:
    run = torch_runner(torch.nn.Conv2d(1, 1, 1))
    times = take_turns([run], (1, 2, 2), (MOST_BATCH,), threads=MOST_THREADS, rounds=2, looks=1, warmup=1)
    assert len(times[MOST_BATCH][0]) == 2
