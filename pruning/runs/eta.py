"""The speed and remaining time of a long computation, estimated from the progress it reports."""

from __future__ import annotations

import math
from dataclasses import dataclass

SHORTEST = 5.0  # the rate is smoothed over at least this many seconds
WINDOW = 0.25  # ... and over this fraction of the phase's time so far


@dataclass
class _Phase:
    began: float
    time: float
    share: float
    counted: bool = False  # whether the first step has been discarded
    rate: float = 0.0  # weighted sum of rates
    weight: float = 0.0


class RateEstimator:
    """Rate and remaining time of the phase reported last; times in seconds, shares from 0 to 1.

    Each phase, identified by its name, has its own rate, an exponential mean over a window that grows
    with the phase [ours]. A phase that is interrupted by another, as training is by testing, keeps its rate.
    Of a phase's first step alone nothing is said of the time left, and it is discarded once there are more:
    it is slow while things are set up, and a jump when a run continues from a checkpoint. If the share falls,
    the phase starts over.
    """

    def __init__(self) -> None:
        self._phases: dict[str, _Phase] = {}
        self._what = ""

    def update(self, what: str, share: float, now: float) -> None:
        """Record that the phase `what` has reached `share` at the time `now`."""
        self._what = what
        phase = self._phases.get(what)
        if phase is None or share < phase.share:
            self._phases[what] = _Phase(now, now, share)
            return
        passed, gained = now - phase.time, share - phase.share
        if passed <= 0 or gained <= 0:
            return
        if not phase.counted and phase.weight:
            phase.rate, phase.weight, phase.counted = 0.0, 0.0, True
        window = max(SHORTEST, WINDOW * (now - phase.began))
        fresh = 1 - math.exp(-passed / window)
        phase.rate += fresh * (gained / passed - phase.rate)
        phase.weight += fresh * (1 - phase.weight)
        phase.time, phase.share = now, share

    def estimate(self, now: float) -> tuple[float | None, float | None]:
        """Share per second, and seconds until the phase ends; None where that is unknown."""
        phase = self._phases.get(self._what)
        if phase is None or not phase.weight:
            return None, None
        rate = phase.rate / phase.weight
        left = (1 - phase.share) / rate - (now - phase.time)
        overdue = left < 0  # so the rate must have changed
        return rate, left if phase.counted and not overdue else None
