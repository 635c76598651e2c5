"""How fast a long computation goes, and how long it will take, from the shares it tells."""

from __future__ import annotations

import math
from dataclasses import dataclass

SHORTEST = 5.0  # seconds over which the rate is smoothed at least
WINDOW = 0.25  # and as a share of the time the phase has taken so far


@dataclass
class _Phase:
    began: float
    time: float
    share: float
    counted: bool = False  # whether the first step has been put aside
    rate: float = 0.0  # weighted sum of rates
    weight: float = 0.0


class Pace:
    """Rate and remaining time of the phase that was told last; times in seconds, shares from 0 to 1.

    Each phase, known by its name, has a rate of its own, an exponential mean over a window that grows
    with it [ours]; a phase that is interrupted by another, as training by testing, goes on with its own.
    A phase's first step only sets the beginning as soon as there are more: it is slow where things are
    set up, and a jump where a run goes on from a checkpoint. A share that falls begins the phase anew.
    """

    def __init__(self) -> None:
        self._phases: dict[str, _Phase] = {}
        self._what = ""

    def tell(self, what: str, share: float, now: float) -> None:
        """The phase `what` has reached `share` at the time `now`."""
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
        """Share per second, and seconds until the phase is over; None where nobody can know."""
        phase = self._phases.get(self._what)
        if phase is None or not phase.weight:
            return None, None
        rate = phase.rate / phase.weight
        left = (1 - phase.share) / rate - (now - phase.time)
        return rate, left if left >= 0 else None  # overdue: something has changed
