"""The change of accuracy between two models that saw the same images, with its interval and its test."""

from __future__ import annotations

import math
from dataclasses import dataclass

from analysis.measure.evaluate import Z95, Evaluation, agreement

_STEPS = 60  # of bisection, each halving the error: far below what a float can tell


@dataclass(frozen=True)
class PairedChange:
    """Top-1 of a second model minus that of a first one on the same images, as fractions.

    `low` to `high` is the 95 % interval of the change, and `p` the two-sided p-value of the same test at no
    change: it is below 0.05 where the interval excludes 0, and nowhere else. Only the first model predicts
    `lost` images correctly, only the second `gained` ones.
    """

    change: float
    low: float
    high: float
    p: float
    lost: int
    gained: int
    images: int

    @property
    def beyond_chance(self) -> bool:
        """Whether the change is real: the 95 % interval excludes 0."""
        return self.low > 0 or self.high < 0


def paired_change(first: Evaluation, second: Evaluation) -> PairedChange:
    """How the second model's top-1 differs from the first one's, image by image.

    Two separate intervals ignore that both models find the same images easy or hard; the paired ones here
    depend only on the images that one model alone predicts correctly. See `change_of_counts`.

    Raises:
        ValueError: no images, or the evaluations are not of the same images.
    """
    found = agreement(first, second)
    return change_of_counts(len(found.lost), len(found.gained), len(first.labels))


def change_of_counts(lost: int, gained: int, images: int) -> PairedChange:
    """The paired change of accuracy from the number of images lost, gained and seen.

    The interval is Tango's score interval (Tango 1998, equations 8 to 10): it keeps close to 95 % coverage
    for small counts, where the Wald interval falls short, and has a width that makes sense when both models
    are right on the same images, where Wald's has none and Newcombe's method 10 depends on the accuracy
    itself. It holds the changes that Tango's score test does not reject. At a change of 0 that test is
    McNemar's, without continuity correction, whose p-value is given: interval and p-value are one decision.
    McNemar's exact test, which is inverted by another interval, would contradict this one. It is also too
    cautious (Fagerland, Lydersen and Laake 2013), while this one may give slightly more than 5 % of false
    alarms.

    Raises:
        ValueError: no images, or more lost and gained images than there are.
    """
    if min(lost, gained) < 0 or images < max(1, lost + gained):
        raise ValueError(
            f"a paired change needs images and at most as many lost and gained, got {lost} lost and "
            f"{gained} gained of {images}"
        )
    high = _upper(lost, gained, images)
    low = -_upper(gained, lost, images)
    p = math.erfc(abs(_score(lost, gained, images, 0.0)) / math.sqrt(2))
    return PairedChange((gained - lost) / images, low, high, p, lost, gained, images)


def _upper(lost: int, gained: int, images: int) -> float:
    """The largest change whose score statistic is within the 95 % bounds, by bisection."""
    low, high = (gained - lost) / images, 1.0
    for _ in range(_STEPS):
        middle = (low + high) / 2
        if abs(_score(lost, gained, images, middle)) <= Z95:
            low = middle
        else:
            high = middle
    return high


def _score(lost: int, gained: int, images: int, change: float) -> float:
    """Tango's statistic of a supposed change: the distance in standard errors of the change that was seen.

    The standard error takes the share of lost images q that is most likely under the supposed change:
    the larger root of 2 n q^2 + b q + c = 0 (Tango 1998).
    """
    b = change * (2 * images + lost - gained) - (lost + gained)
    c = -lost * change * (1 - change)
    share = (math.sqrt(max(b * b - 8 * images * c, 0.0)) - b) / (4 * images)
    variance = images * (2 * share + change * (1 - change))
    distance = gained - lost - images * change
    if variance <= 0:  # only at the ends, where one outcome is certain
        return math.copysign(math.inf, distance) if distance else 0.0
    return distance / math.sqrt(variance)
