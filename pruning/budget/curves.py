"""Curves of the damage that narrowing a structure does, from a few measured widths."""

from __future__ import annotations

import math
from bisect import bisect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from analysis.formats import Checked
from analysis.vit import Architecture, Block, BlockWidths

BUDGETED_STRUCTURES = ("qk", "v", "mlp")

# block, structure, width -> a new block, equal to the dense one but for that structure's width
Narrow = Callable[[int, str, int], Block]

_LEAST = 1e-12  # a divergence below this counts as this where a logarithm is taken
_KNEE = 10.0  # times the divergence of one width measured at the next: something ran out between them


@dataclass(frozen=True)
class Curve(Checked):
    """Mean KL divergence of the logits by width. `widths` fall from the dense one; `kl` never falls.

    Raises:
        ValueError: widths or divergences out of order, or a dense model that differs from itself.
    """

    widths: tuple[int, ...]
    kl: tuple[float, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.widths) != len(self.kl) or not self.widths or self.kl[0] != 0:
            raise ValueError("a curve needs one divergence per width, and 0 at the dense width")
        if not all(map(math.isfinite, self.kl)):
            raise ValueError("divergences must be finite; check the model's weights for NaN")
        if list(self.widths) != sorted(set(self.widths), reverse=True) or list(self.kl) != sorted(self.kl):
            raise ValueError("a curve's widths must fall, and its divergences must not")

    @classmethod
    def measured(cls, widths: tuple[int, ...], kl: tuple[float, ...]) -> Curve:
        """A curve through noisy values: where a narrower width did less damage, it counts as the wider."""
        return cls(widths, tuple(np.maximum.accumulate(kl).tolist()))

    @classmethod
    def predicted(cls, widths: tuple[int, ...], errors: Sequence[float], known: Mapping[int, float]) -> Curve:
        """A curve of which few divergences were measured: `known`, by the place of their width in `errors`.

        `errors` are mean squared errors of the narrowed block's outputs, one for each width but the
        dense one. Between measured widths the divergence is a power of this local error, and beyond
        them proportional to it, as any divergence is where it is small [ours].
        """
        x = np.maximum.accumulate(_logs(errors)).tolist()
        y = {place: _logs([kl])[0] for place, kl in known.items()}
        places = sorted(known)
        first, last = places[0], places[-1]
        kl = [0.0]
        for place, here in enumerate(x):
            beyond = min(0.0, here - x[first]) + max(0.0, here - x[last])
            between = float(np.interp(here, [x[at] for at in places], [y[at] for at in places]))
            kl.append(known[place] if place in known else math.exp(between + beyond))
        return cls.measured(widths, tuple(kl))

    @property
    def least(self) -> int:
        """The narrowest width measured."""
        return self.widths[-1]

    @cached_property
    def _logarithms(self) -> tuple[list[float], list[float]]:
        """Of the share removed and of the divergence, at every width but the dense one."""
        removed = [math.log(1 - kept / self.widths[0]) for kept in self.widths[1:]]
        return removed, [math.log(max(kl, _LEAST)) for kl in self.kl[1:]]

    def at(self, width: int) -> float:
        """Divergence at a width between those measured [ours].

        Along straight lines of log KL over log removed share, so that it is a power of what is
        removed: near the dense width a divergence grows with the square of the error or so. The
        first line goes on towards the dense width, and is never less steep than proportional.
        Where the divergence grows more than tenfold from one width to the next, as where neurons
        that never fire have run out somewhere between, it goes along a straight line of KL itself:
        no convex curve lies above it.

        Raises:
            ValueError: a width outside of those measured.
        """
        dense = self.widths[0]
        if not self.least <= width <= dense:
            raise ValueError(f"the curve was measured from {self.least} to {dense}, got width {width}")
        if width in self.widths:
            return self.kl[self.widths.index(width)]
        removed, known = self._logarithms
        here = math.log(1 - width / dense)
        if here > removed[0]:
            above = bisect(removed, here)
            if known[above] - known[above - 1] > math.log(_KNEE):
                return float(np.interp(dense - width, [dense - kept for kept in self.widths], self.kl))
            return math.exp(float(np.interp(here, removed, known)))
        slope = (known[1] - known[0]) / (removed[1] - removed[0]) if len(known) > 1 else 1.0
        return math.exp(known[0] + max(1.0, slope) * (here - removed[0]))


def doubt(errors: Sequence[float], known: Mapping[int, float]) -> float:
    """How much less or more measured divergences grow than the errors they belong to, as a logarithm.

    Both from the widest to the narrowest width that was measured; arguments as for `Curve.predicted`.
    """
    first, last = min(known), max(known)
    x, y = _logs((errors[first], errors[last])), _logs((known[first], known[last]))
    return abs((y[1] - y[0]) - (x[1] - x[0]))


def _logs(numbers: Sequence[float]) -> list[float]:
    return [math.log(max(number, _LEAST)) for number in numbers]


@dataclass(frozen=True)
class BlockCurves(Checked):
    """The curves of one block."""

    qk: Curve
    v: Curve
    mlp: Curve


def dense_curves(widths: BlockWidths) -> BlockCurves:
    """Curves of a block of which nothing is narrowed."""
    qk, v, mlp = (Curve((width,), (0.0,)) for width in (widths.qk, widths.v, widths.mlp))
    return BlockCurves(qk, v, mlp)


@dataclass(frozen=True)
class MergeLoss(Checked):
    """A schedule of merging, the tokens that every block merges, and its divergence.

    Raises:
        ValueError: a divergence that is not finite, or a negative number.
    """

    merges: tuple[int, ...]
    kl: float

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.merges, default=-1) < 0 or not (self.kl >= 0 and math.isfinite(self.kl)):
            raise ValueError(f"a schedule needs whole numbers and a finite divergence, got {self!r:.80}")


@dataclass(frozen=True)
class HalfLoss(Checked):
    """Half of a block (0: attention, 1: MLP), and the divergence where the mean of what it adds replaces it.

    Raises:
        ValueError: no such half, or a divergence that is not finite.
    """

    block: int
    half: int
    kl: float

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.block < 0 or self.half not in (0, 1) or not (self.kl >= 0 and math.isfinite(self.kl)):
            raise ValueError(f"half of a block needs a finite divergence, got {self!r:.80}")


@dataclass(frozen=True)
class Sensitivities(Checked):
    """Curves of every block, measured on so many images; schedules of merging, and halves left out."""

    blocks: tuple[BlockCurves, ...]
    images: int
    tokens: tuple[MergeLoss, ...] = ()
    halves: tuple[HalfLoss, ...] = ()

    def loss(self, arch: Architecture) -> float:
        """Predicted divergence of a smaller model: the sum over all that was taken from it [ours].

        A prediction for choosing, not a measurement: damages do not simply add up.

        Raises:
            ValueError: widths that were not measured.
        """
        merges = tuple(widths.merge for widths in arch.blocks)
        total = next((one.kl for one in self.tokens if one.merges == merges), 0.0)
        for index, (curves, widths) in enumerate(zip(self.blocks, arch.blocks, strict=True)):
            gone = [half for half, width in enumerate((widths.heads, widths.mlp)) if not width]
            total += sum(one.kl for one in self.halves if one.block == index and one.half in gone)
            names = (*(("qk", "v") if widths.heads else ()), *(("mlp",) if widths.mlp else ()))
            total += sum(getattr(curves, name).at(getattr(widths, name)) for name in names)
        return total
