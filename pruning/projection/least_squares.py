"""Least squares from moments: what a layer's inputs say about its outputs, without keeping either.

Axes beside the usual ones: I inputs of a layer, O its outputs. Everything here is float64.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

STRENGTHS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)
_START = 4  # where the search for the best strength begins
_FLOOR = 1e-9  # of the mean variance: keeps directions that never occur from dividing by zero
_BLOCK = 512  # columns of a symmetric product that are computed at once


@dataclass(frozen=True)
class Statistics:
    """Means and centred second moments of inputs z and outputs y of a regression."""

    mean_in: Float[Tensor, " I"]
    mean_out: Float[Tensor, " O"]
    covariance: Float[Tensor, "I I"]
    cross: Float[Tensor, "I O"]

    def towards(self, weight: Float[Tensor, "O I"], share: float) -> Statistics:
        """Those of z and share weight z + (1 - share) y."""
        if not share:
            return self
        return Statistics(
            self.mean_in,
            torch.lerp(self.mean_out, weight @ self.mean_in, share),
            self.covariance,
            torch.lerp(self.cross, self.covariance @ weight.T, share),
        )

    def through(self, down: Float[Tensor, "K I"]) -> Statistics:
        """Those of down z and y."""
        covariance = down @ self.covariance @ down.T
        return Statistics(down @ self.mean_in, self.mean_out, covariance, down @ self.cross)

    def only(self, kept: Int[Tensor, " K"]) -> Statistics:
        """Those of the kept inputs and y."""
        covariance = self.covariance[kept][:, kept]
        return Statistics(self.mean_in[kept], self.mean_out, covariance, self.cross[kept])


class Moments:
    """Weighted sums over tokens, in float64, of two halves of the images: every second is in the other.

    Memory depends on the widths alone. The sums do not depend on how images are batched.
    """

    def __init__(self, inputs: int, outputs: int, device: torch.device | str = "cpu") -> None:
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(2, *shape, dtype=torch.float64, device=device)

        self._images = 0
        self._mass, self._z, self._y = zeros(), zeros(inputs), zeros(outputs)
        self._zz, self._zy = zeros(inputs, inputs), zeros(inputs, outputs)

    def add(self, z: Float[Tensor, "B N I"], y: Float[Tensor, "B N O"], weights: Float[Tensor, " N"]) -> None:
        """Add a batch; `weights` say how much each token counts."""
        for half in (0, 1):
            first = (half + self._images) % 2
            inputs, outputs = z[first::2].double(), y[first::2].double()
            counts = weights.double().expand(len(inputs), -1).flatten()
            inputs, outputs = inputs.flatten(0, 1), outputs.flatten(0, 1)  # tokens I, tokens O
            weighted = inputs * counts[:, None]
            self._mass[half] += counts.sum()
            self._z[half] += weighted.sum(dim=0)
            self._y[half] += counts @ outputs
            _add_symmetric(self._zz[half], weighted, inputs)
            self._zy[half] += weighted.T @ outputs
        self._images += len(z)

    def statistics(self) -> Statistics:
        """Of all images.

        Raises:
            ValueError: nothing was added, or values that are not finite.
        """
        sums = self._mass, self._z, self._y, self._zz, self._zy
        return _centred(*(total.sum(dim=0) for total in sums))

    def halves(self) -> tuple[Statistics, Statistics] | None:
        """Of each half of the images; None where there is only one image."""
        if self._images < 2:
            return None
        sums = self._mass, self._z, self._y, self._zz, self._zy
        first, second = (_centred(*(total[half] for total in sums)) for half in (0, 1))
        return first, second


def _add_symmetric(total: Float[Tensor, "I I"], weighted: Tensor, inputs: Tensor) -> None:
    """Add weighted^T inputs, which is symmetric, in the blocks on the diagonal and right of it."""
    for start in range(0, len(total), _BLOCK):
        rows = slice(start, start + _BLOCK)
        total[rows, start:] += weighted[:, rows].T @ inputs[:, start:]


def _centred(mass: Tensor, z: Tensor, y: Tensor, zz: Tensor, zy: Tensor) -> Statistics:
    if not mass > 0:
        raise ValueError("a refit needs calibration images, got none")
    mean_in, mean_out = z / mass, y / mass
    covariance = (zz.triu() + zz.triu(1).T) / mass - torch.outer(mean_in, mean_in)
    cross = zy / mass - torch.outer(mean_in, mean_out)
    require_finite(covariance, cross)
    return Statistics(mean_in, mean_out, covariance, cross)


def require_finite(*sums: Tensor) -> None:
    """Refuse sums over activations that are not finite.

    Raises:
        ValueError: one is not.
    """
    if not all(bool(part.isfinite().all()) for part in sums):
        raise ValueError("activations are not finite; check the model's weights and the images for NaN")


def ridge(statistics: Statistics, prior: Float[Tensor, "O I"], strength: float) -> Float[Tensor, "O I"]:
    """The weight W that predicts y from z, shrunk towards `prior`.

    minimise E|y - W z|^2 + strength * sum_i var(z_i) |W_i - prior_i|^2, both centred. Strength 0
    is ordinary least squares; of inputs that never vary the prior stays.
    """
    return prior + _step(statistics.covariance, _missing(statistics, prior), strength).T


def _missing(statistics: Statistics, prior: Tensor) -> Float[Tensor, "I O"]:
    """What the prior leaves unexplained."""
    return statistics.cross - statistics.covariance @ prior.T


def _step(covariance: Tensor, missing: Float[Tensor, "I O"], strength: float) -> Float[Tensor, "I O"]:
    """From the prior to the best weight, transposed."""
    penalised = regularised(covariance, strength)
    root, failed = torch.linalg.cholesky_ex(penalised)
    # rounding can leave a covariance of inputs that repeat one another short of positive
    return torch.linalg.solve(penalised, missing) if failed else torch.cholesky_solve(missing, root)


def regularised(covariance: Float[Tensor, "I I"], strength: float) -> Float[Tensor, "I I"]:
    """The covariance plus `strength` of its diagonal, invertible for any strength above 0."""
    if not strength:
        return covariance
    variance = covariance.diagonal().clamp_min(0)
    mean, own = float(variance.mean()), covariance.clone()
    own.diagonal().add_(strength * variance + (_FLOOR * mean if mean > 0 else 1.0))
    return own


def ridge_held_out(
    whole: Statistics, halves: tuple[Statistics, Statistics] | None, prior: Float[Tensor, "O I"]
) -> tuple[Float[Tensor, "O I"], float]:
    """`ridge` with the strength that predicts each half best from the other [ours], and that strength.

    The error falls and then rises with the strength, so the search walks downhill. A prior that
    no strength improves on stays as it is (strength infinite); so it does where nothing can be held out.
    """
    if halves is None:
        return prior, float("inf")
    missing = [_missing(half, prior) for half in halves]
    if not any(bool(part.any()) for part in missing):  # y is already what the prior makes of z
        return prior, float("inf")

    def error(strength: float) -> float:
        """Squared error on each half of the other's weight, less that of the prior."""
        total = 0.0
        for here, there in ((0, 1), (1, 0)):
            step = _step(halves[here].covariance, missing[here], strength)
            total += float((step * (halves[there].covariance @ step - 2 * missing[there])).sum())
        return total

    best, least = _walk(error)
    if not least < 0:
        return prior, float("inf")
    return ridge(whole, prior, best), best


def _walk(error: Callable[[float], float]) -> tuple[float, float]:
    """The entry of `STRENGTHS` at the bottom of the valley that the middle one lies in, and its error."""
    known: dict[int, float] = {}

    def at(index: int) -> float:
        if index not in known:
            known[index] = error(STRENGTHS[index]) if 0 <= index < len(STRENGTHS) else float("inf")
        return known[index]

    here = _START
    step = 1 if at(here + 1) < at(here) else -1
    while at(here + step) < at(here):
        here += step
    return STRENGTHS[here], known[here]
