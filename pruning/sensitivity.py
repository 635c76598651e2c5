"""How much each structure of each block matters: the damage done by narrowing it alone.

What a budget is solved on (`pruning.budget`). A method comes in as a `Narrow`, which makes one
block narrower; nothing else is asked of it.
"""

from __future__ import annotations

import json
import math
import tempfile
from bisect import bisect
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from analysis.evaluate import Batches
from analysis.vit import Architecture, Block, ViT
from pruning.selection import Scores, select
from pruning.surgery import cut

STRUCTURES = ("qk", "v", "mlp")
SHARES = (0.875, 0.75, 0.5, 0.25, 0.125)  # of the dense width: where a curve is measured

# block, structure, width -> a new block, equal to the dense one but for that structure's width
Narrow = Callable[[int, str, int], Block]
Progress = Callable[[str, float], None]

_LEAST = 1e-12  # a divergence below this counts as this where a logarithm is taken
_KNEE = 10.0  # times the divergence of one width measured at the next: something ran out between them


@dataclass(frozen=True)
class Curve:
    """Mean KL divergence of the logits by width. `widths` fall from the dense one; `kl` never falls.

    Raises:
        ValueError: widths or divergences out of order, or a dense model that differs from itself.
    """

    widths: tuple[int, ...]
    kl: tuple[float, ...]

    def __post_init__(self) -> None:
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


@dataclass(frozen=True)
class BlockCurves:
    """The curves of one block."""

    qk: Curve
    v: Curve
    mlp: Curve


@dataclass(frozen=True)
class Sensitivities:
    """Curves of every block, measured on so many images; to and from JSON."""

    blocks: tuple[BlockCurves, ...]
    images: int

    def loss(self, arch: Architecture) -> float:
        """Predicted divergence of a narrower model: the sum over all that was narrowed [ours].

        A prediction for choosing widths, not a measurement: damages do not simply add up.

        Raises:
            ValueError: widths that were not measured.
        """
        return sum(
            getattr(curves, name).at(getattr(widths, name))
            for curves, widths in zip(self.blocks, arch.blocks, strict=True)
            for name in STRUCTURES
        )

    def to_json(self) -> str:
        """Serialise; `from_json` gives equal Sensitivities back."""
        return json.dumps(asdict(self)) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Sensitivities:
        """Rebuild from `to_json`.

        Raises:
            ValueError: not JSON, or not sensitivities.
        """
        try:
            data = json.loads(text)
            blocks = tuple(
                BlockCurves(**{name: Curve(*map(tuple, curve.values())) for name, curve in block.items()})
                for block in data["blocks"]
            )
            return cls(blocks, data["images"])
        except (TypeError, KeyError, AttributeError, json.JSONDecodeError) as error:
            raise ValueError(f"these are not PruneScope sensitivities: {error}") from error


def quiet(what: str, share: float) -> None:
    """Progress nobody asked for."""


def measure_sensitivities(
    model: ViT,
    batches: Batches,
    narrow: Narrow,
    structures: Collection[str] = STRUCTURES,
    progress: Progress = quiet,
) -> Sensitivities:
    """Mean KL(dense || narrowed) of the class probabilities, one structure of one block narrowed at a time.

    Of structures other than `structures` only the dense width is known. The dense residual stream
    before the block at hand lies in a temporary folder, batch by batch, and only the blocks from
    there on are run: half a forward pass for a point of a curve on average.

    Raises:
        ValueError: a model without a classifier, or no images.
        OSError: no room for the residual stream.
    """
    if not model.arch.num_classes:
        raise ValueError("sensitivities compare class probabilities, but the model has no classifier")
    blocks = []
    with torch.no_grad(), tempfile.TemporaryDirectory(prefix="prunescope-") as folder:
        stream = _DenseStream(Path(folder), model, batches)
        for index, widths in enumerate(model.arch.blocks):
            curves = {}
            for place, name in enumerate(STRUCTURES):
                progress("Measuring sensitivities", (index + place / len(STRUCTURES)) / model.arch.depth)
                kept = measured_widths(getattr(widths, name))[: None if name in structures else 1]
                kl = [stream.divergence(narrow(index, name, width), index) for width in kept[1:]]
                curves[name] = Curve.measured(kept, (0.0, *kl))
            blocks.append(BlockCurves(**curves))
            stream.advance(index)
    progress("Measuring sensitivities", 1.0)
    return Sensitivities(tuple(blocks), stream.images)


def measured_widths(dense: int) -> tuple[int, ...]:
    """The widths a curve is measured at, falling from the dense one."""
    shares = {max(1, round(share * dense)) for share in SHARES}
    return (dense, *sorted(shares - {dense}, reverse=True))


class _DenseStream:
    """The dense model's residual stream before one block and its class probabilities, on disk."""

    def __init__(self, folder: Path, model: ViT, batches: Batches) -> None:
        self._folder, self._model, self._count, self.images = folder, model, 0, 0
        device = next(model.parameters()).device
        for images, _ in batches:
            x = model.embed(images.to(device))
            self._save("stream", self._count, x)
            for block in model.blocks:
                x = block(x)
            self._save("logits", self._count, model.classify(x))
            self._count, self.images = self._count + 1, self.images + len(x)
        if not self.images:
            raise ValueError("sensitivities need calibration images, got none")

    def divergence(self, narrowed: Block, index: int) -> float:
        """Mean KL divergence from the dense model with block `index` exchanged for `narrowed`."""
        total = 0.0
        for number in range(self._count):
            x = narrowed(self._load("stream", number))
            for block in self._model.blocks[index + 1 :]:
                x = block(x)
            total += kl_divergence(self._load("logits", number), self._model.classify(x)).sum().item()
        return total / self.images

    def advance(self, index: int) -> None:
        """Take the stream through block `index`."""
        for number in range(self._count):
            self._save("stream", number, self._model.blocks[index](self._load("stream", number)))

    def _save(self, name: str, number: int, x: Tensor) -> None:
        np.save(self._folder / f"{name}-{number}.npy", x.cpu().numpy())

    def _load(self, name: str, number: int) -> Tensor:
        x = torch.from_numpy(np.load(self._folder / f"{name}-{number}.npy"))
        return x.to(next(self._model.parameters()).device)


def kl_divergence(dense: Float[Tensor, "B C"], other: Float[Tensor, "B C"]) -> Float[Tensor, " B"]:
    """sum_c p_c (log p_c - log q_c) of the softmax of two sets of logits, at least zero."""
    p, q = (logits.double().log_softmax(dim=-1) for logits in (dense, other))
    return (p.exp() * (p - q)).sum(dim=-1).clamp_min(0)


def narrow_by_scores(model: ViT, scores: Scores) -> Narrow:
    """Narrowing that keeps what a criterion scores highest."""

    def narrow(index: int, structure: str, width: int) -> Block:
        widths = model.arch.blocks[index]
        alone = _alone(model, index)
        target = replace(alone.arch, blocks=(replace(widths, **{structure: width}),))
        own: dict[str, Any] = {name: (getattr(scores, name)[index],) for name in (*STRUCTURES, "heads")}
        return cut(alone, select(replace(scores, **own), alone.arch, target)).blocks[0]

    return narrow


def _alone(model: ViT, index: int) -> ViT:
    """A model of one block only, so that surgery copies no more than that."""
    alone = ViT(replace(model.arch, blocks=(model.arch.blocks[index],)))
    own, prefix = {}, f"blocks.{index}."
    for name, value in model.state_dict().items():
        if name.startswith(prefix):
            own["blocks.0." + name.removeprefix(prefix)] = value
        elif not name.startswith("blocks."):
            own[name] = value
    alone.load_state_dict(own)
    return alone.to(next(model.parameters()).device).eval()
