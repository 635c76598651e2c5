"""Calibration of a model's confidence: reliability diagram and expected calibration error."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from analysis.measure.evaluate import Evaluation

BINS = 15


@dataclass(frozen=True)
class Bin:
    """Images whose confidence is above `low` and at most `high`, all as fractions.

    `confidence` is their mean confidence and `accuracy` the share predicted correctly; both are zero
    if there are no images.
    """

    low: float
    high: float
    images: int
    right: int
    confidence: float

    @property
    def accuracy(self) -> float:
        """Share of the images that are predicted correctly."""
        return self.right / self.images if self.images else 0.0


def reliability(result: Evaluation, bins: int = BINS) -> tuple[Bin, ...]:
    """Images in bins of equal width by the confidence of their prediction (Guo et al. 2017, section 2).

    Raises:
        ValueError: no bins, or an evaluation that lacks confidences.
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
    """Expected calibration error (Guo et al. 2017, equation 3), a fraction.

    It is the gap between accuracy and mean confidence in each bin, averaged over images.

    Raises:
        ValueError: as `reliability`.
    """
    diagram = reliability(result, bins)
    return sum(b.images * abs(b.accuracy - b.confidence) for b in diagram) / result.images
