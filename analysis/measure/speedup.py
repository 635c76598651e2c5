"""How many times faster one runner is than another, from rounds in which both were timed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

NOT_DISTINGUISHABLE = "not distinguishable"
UNKNOWN = "verdict unknown"  # of a measurement that did not keep its rounds
LOOKS = 4  # rounds are doubled up to three times


@dataclass(frozen=True)
class Percentiles:
    """Percentiles of the time of one forward pass of a whole batch, in milliseconds.

    They describe the scatter of single passes, which more rounds do not reduce, and decide nothing.
    """

    p10: float
    p50: float
    p90: float


@dataclass(frozen=True)
class Timing:
    """Two runners at one batch size, timed in the same `rounds`.

    `speedup` is the median over rounds of b's time divided by a's: how many times faster a is.
    `speedup_low` to `speedup_high` is its 95 % interval, None where there are too few rounds for one or
    the rounds are not known. `verdict` is "faster" or "slower", of a compared with b, if the interval
    excludes 1, else "not distinguishable".
    """

    a_ms: Percentiles
    b_ms: Percentiles
    speedup: float
    speedup_low: float | None
    speedup_high: float | None
    verdict: str
    rounds: int

    @property
    def decided(self) -> bool:
        """Whether the verdict is "faster" or "slower"."""
        return self.verdict in ("faster", "slower")


def compare(a_ms: Sequence[float], b_ms: Sequence[float], looks: int = LOOKS) -> Timing:
    """Compare two runners by the milliseconds of each round.

    What slows a whole round down slows both runners, so the ratio of their times in a round scatters less
    than the times. The interval of the median ratio is `median_interval`. `looks` is how often the rounds
    may have been looked at before they were found to be enough. To stop at the first look that decides
    would call equal runners different too often, so each look has a level of 1 - 0.05 / looks (Bonferroni;
    [ours] is the choice over Pocock's constant, which is less strict but holds for normal data only). The
    intervals of all looks together then hold the true median with at least 95 % probability, whichever of
    them is reported.

    Raises:
        ValueError: no rounds, or not as many of one runner as of the other.
    """
    if not a_ms or len(a_ms) != len(b_ms):
        raise ValueError(f"both must be timed in the same rounds, got {len(a_ms)} and {len(b_ms)} times")
    # in logarithms, so that the speed-up of b over a is exactly the inverse
    logs = [math.log(b / a) for a, b in zip(a_ms, b_ms, strict=True)]
    bounds = median_interval(logs, 1 - 0.05 / looks)
    low, high = (None, None) if bounds is None else map(math.exp, bounds)
    verdict = NOT_DISTINGUISHABLE
    if low is not None and high is not None and not low <= 1 <= high:
        verdict = "faster" if low > 1 else "slower"
    speedup = math.exp(percentiles(logs).p50)
    return Timing(percentiles(a_ms), percentiles(b_ms), speedup, low, high, verdict, len(logs))


def median_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float] | None:
    """Distribution-free interval of the median, between two order statistics; None for too few values.

    Each value lies below the true median with probability 1/2, so the number of those that do is binomial.
    The interval is from the k-th smallest to the k-th largest value, with the largest k for which fewer
    than k values on either side have a probability of at most 1 - level (Thompson 1936).
    """
    ordered, count = sorted(values), len(values)
    ways, tail, place = 1, 1, 0
    while 2 * tail / 2**count <= 1 - level and place < count // 2:
        place += 1
        ways = ways * (count - place + 1) // place
        tail += ways
    return (ordered[place - 1], ordered[-place]) if place else None


def percentiles(samples: Sequence[float]) -> Percentiles:
    """Percentiles of samples, with linear interpolation."""
    values = torch.tensor(samples, dtype=torch.float64)
    p10, p50, p90 = values.quantile(values.new_tensor([0.1, 0.5, 0.9])).tolist()
    return Percentiles(p10, p50, p90)
