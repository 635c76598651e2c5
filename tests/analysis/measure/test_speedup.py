"""The interval of a speed-up, its verdict, and how many rounds are enough."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable
from statistics import median

import pytest

from analysis.measure.latency import enough_rounds
from analysis.measure.speedup import Timing, compare, median_interval, percentiles

Round = Callable[[], tuple[float, ...]]


def test_percentiles_against_sorting() -> None:
    samples = [float(i) for i in (9, 3, 7, 1, 5, 10, 2, 8, 4, 6, 0)]
    found = percentiles(samples)
    assert (found.p10, found.p50, found.p90) == pytest.approx((1.0, 5.0, 9.0))


@pytest.mark.parametrize("level", [0.5, 0.9, 0.95, 0.9875])
@pytest.mark.parametrize("count", range(1, 15))
def test_interval_of_the_median_against_all_outcomes(count: int, level: float) -> None:
    """Each value is below or above the median: of all such outcomes, those in which the interval holds it."""
    found = median_interval([float(value) for value in range(count)], level)

    def coverage(place: int) -> float:
        """Of the interval from the place-th smallest to the place-th largest value."""
        outcomes = itertools.product((0, 1), repeat=count)
        return sum(place <= sum(outcome) <= count - place for outcome in outcomes) / 2**count

    places = [place for place in range(1, count // 2 + 1) if coverage(place) >= level]
    assert found == ((max(places) - 1, count - max(places)) if places else None)


def test_interval_of_many_values() -> None:
    """Of 60 values the 22nd smallest and largest, as tables of the sign test have it."""
    values = [float(value) for value in range(1, 61)]
    random.Random(0).shuffle(values)
    assert median_interval(values) == (22, 39)


def test_speedup_is_the_median_ratio_of_rounds() -> None:
    a, b = [1.0, 2.0, 4.0, 10.0, 1.0], [1.5, 2.0, 6.4, 13.0, 1.1]
    timing = compare(a, b)
    assert timing.speedup == pytest.approx(median(y / x for x, y in zip(a, b, strict=True)))
    assert (timing.a_ms, timing.b_ms, timing.rounds) == (percentiles(a), percentiles(b), 5)
    assert (timing.speedup_low, timing.speedup_high) == (None, None)  # five rounds are too few
    assert timing.verdict == "not distinguishable" and not timing.decided


def test_the_other_way_round_is_the_inverse() -> None:
    noise = random.Random(3)
    a, b = ([noise.lognormvariate(0, 0.2) for _ in range(30)] for _ in "ab")
    one, other = compare(a, b), compare(b, a)
    assert None not in (one.speedup_low, one.speedup_high, other.speedup_low, other.speedup_high)
    assert other.speedup == pytest.approx(1 / one.speedup)
    assert other.speedup_low == pytest.approx(1 / (one.speedup_high or 0))


def test_rounds_faster_in_50_of_60_are_called_faster() -> None:
    """1.24 times as fast in the median, though the spreads of single timings overlap widely."""
    drift = [10 * 1.02**place for place in range(60)]
    ratios = [1.24 + 0.004 * (place - 25) for place in range(50)] + [0.9] * 10
    random.Random(1).shuffle(ratios)
    timing = compare(drift, [ms * ratio for ms, ratio in zip(drift, ratios, strict=True)])
    assert timing.verdict == "faster" and timing.a_ms.p90 > timing.b_ms.p10
    assert 1.15 < timing.speedup < 1.3
    assert timing.speedup_low is not None and 1 < timing.speedup_low < timing.speedup
    assert compare([ms * 1.24 for ms in drift], drift).verdict == "slower"


@pytest.mark.parametrize(("a", "b"), [([], []), ([1.0], [1.0, 2.0])])
def test_times_of_different_rounds_are_refused(a: list[float], b: list[float]) -> None:
    with pytest.raises(ValueError, match="the same rounds"):
        compare(a, b)


# ---- enough rounds


def rounds_of(ratio: float, noise: float, seed: int) -> Round:
    """Two runners, each with its own noise, and load that comes and goes for both."""
    scatter = random.Random(seed)

    def one_round() -> tuple[float, float]:
        load = 1 + 3 * (scatter.random() < 0.1)
        return load * ratio * scatter.lognormvariate(0, noise), load * scatter.lognormvariate(0, noise)

    return one_round


def played(ratio: float, noise: float, runs: int) -> list[Timing]:
    """Verdicts of so many measurements, each with as many rounds as it asks for."""
    found = [enough_rounds(rounds_of(ratio, noise, seed), 30, 4) for seed in range(runs)]
    return [compare(second, first, 4) for first, second in found]


def test_equal_runners_are_seldom_told_apart() -> None:
    """At most 5 % of measurements may decide: of 400 such, 28 or more are less likely than 4 %."""
    found = played(1.0, 0.15, 400)
    assert sum(timing.decided for timing in found) < 28
    assert {timing.rounds for timing in found if not timing.decided} == {240}


def test_looking_at_every_round_would_tell_them_apart() -> None:
    """Why looks are few and their level is corrected: the naive rule goes wrong in this simulation."""
    wrong = 0
    for seed in range(60):
        one_round = rounds_of(1.0, 0.15, seed)
        first: list[float] = []
        second: list[float] = []
        while len(first) < 240:
            for times, spent in zip((first, second), one_round(), strict=True):
                times.append(spent)
            if len(first) >= 30 and compare(first, second, looks=1).decided:
                wrong += 1
                break
    assert wrong > 9  # 15 %


@pytest.mark.parametrize("ratio", [1.1, 1 / 1.1])
def test_a_tenth_under_noise_is_decided(ratio: float) -> None:
    found = played(ratio, 0.15, 200)
    verdict = "faster" if ratio > 1 else "slower"
    assert sum(timing.verdict == verdict for timing in found) >= 195
    assert not [timing for timing in found if timing.verdict not in (verdict, "not distinguishable")]


@pytest.mark.parametrize("ratio", [1.0, 1.05, 1.3])
def test_the_interval_holds_the_true_ratio_whenever_rounds_end(ratio: float) -> None:
    found = played(ratio, 0.1, 200)
    held = [(t.speedup_low or 9) <= ratio <= (t.speedup_high or 0) for t in found]
    assert sum(held) >= 186  # 95 % of 200, less what chance allows at 10 %


def test_a_clear_difference_ends_at_the_first_look() -> None:
    shares: list[float] = []
    times = enough_rounds(rounds_of(2.0, 0.05, 0), 30, 4, shares.append)
    assert [len(row) for row in times] == [30, 30]
    assert shares == sorted(shares) and shares[-1] == 1


def test_one_undecided_pair_goes_on_for_all() -> None:
    noise = random.Random(0)
    times = enough_rounds(lambda: tuple(ms * noise.lognormvariate(0, 0.1) for ms in (1, 3, 1)), 10, 3)
    assert [len(row) for row in times] == [40, 40, 40]
    alone = enough_rounds(lambda: (math.pi,), 10, 3)
    assert alone == ((math.pi,) * 10,)
