"""Whether a model is right as often as it is sure: reliability and calibration error."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from analysis.measure.evaluate import Evaluation

BINS = 15


@dataclass(frozen=True)
class Bin:
    """Images whose confidence lies above `low` and at most at `high`, all as fractions.

    `confidence` is their mean confidence and `accuracy` the share of them that is right; both are zero
    where there are no images.
    """

    low: float
    high: float
    images: int
    right: int
    confidence: float

    @property
    def accuracy(self) -> float:
        """Share of the images that is right."""
        return self.right / self.images if self.images else 0.0


def reliability(result: Evaluation, bins: int = BINS) -> tuple[Bin, ...]:
    """Images by the confidence of their prediction, in bins of equal width (Guo et al. 2017, section 2).

    Raises:
        ValueError: no bins, or an evaluation without the confidence of every image.
    """
    if bins < 1:
        raise ValueError(f"at least 1 bin is needed, got {bins}")
    if not result.images or len(result.confidences) != result.images:
        raise ValueError(
            f"every image needs its confidence: {result.images} images, {len(result.confidences)} confidences"
        )
    edges = [(place + 1) / bins for place in range(bins)]
    members: list[list[int]] = [[] for _ in edges]
    for image, confidence in enumerate(result.confidences):
        members[min(bisect_left(edges, confidence), bins - 1)].append(image)  # rounding may exceed 1
    return tuple(_bin(result, images, place, bins) for place, images in enumerate(members))


def _bin(result: Evaluation, images: Sequence[int], place: int, bins: int) -> Bin:
    right = sum(result.predictions[image] == result.labels[image] for image in images)
    mean = sum(result.confidences[image] for image in images) / len(images) if images else 0.0
    return Bin(place / bins, (place + 1) / bins, len(images), right, mean)


def ece(result: Evaluation, bins: int = BINS) -> float:
    """Expected calibration error (Guo et al. 2017, equation 3), a fraction: the gap between how often the
    model is right and how sure it is, averaged over the images.

    Raises:
        ValueError: as `reliability`.
    """
    found = reliability(result, bins)
    return sum(b.images * abs(b.accuracy - b.confidence) for b in found) / result.images
