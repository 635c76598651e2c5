"""Mean and variance of every MLP neuron's activation."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from pruning.projection.least_squares import require_finite


class NeuronStatistics:
    """Mean and variance over all tokens of all images, in float64, updated batch by batch.

    Welford's algorithm for batches (Chan, Golub, LeVeque 1979), which subtracts no large numbers.
    """

    def __init__(self, neurons: int, device: torch.device | str = "cpu") -> None:
        self._count = 0
        self._mean = torch.zeros(neurons, dtype=torch.float64, device=device)
        self._squares = torch.zeros_like(self._mean)  # summed, about the mean

    def add(self, activations: Float[Tensor, "B N F"]) -> None:
        """Add a batch; each token of each image counts as one sample."""
        samples = activations.flatten(0, 1).double()
        mean, total = samples.mean(dim=0), self._count + len(samples)
        apart = mean - self._mean
        self._squares += (samples - mean).square().sum(dim=0)
        self._squares += apart.square() * (self._count * len(samples) / total)
        self._mean += apart * (len(samples) / total)
        self._count = total

    @property
    def mean(self) -> Float[Tensor, " F"]:
        """The means.

        Raises:
            ValueError: nothing was added, or values that are not finite.
        """
        self._require_samples()
        return self._mean

    @property
    def variance(self) -> Float[Tensor, " F"]:
        """The variances, without bias.

        Raises:
            ValueError: nothing was added, or values that are not finite.
        """
        self._require_samples()
        return self._squares / max(1, self._count - 1)

    def _require_samples(self) -> None:
        if not self._count and len(self._mean):
            raise ValueError("statistics of neurons need calibration images, got none")
        require_finite(self._mean, self._squares)
