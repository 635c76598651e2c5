"""How much each structure of each block matters: the damage done by narrowing it alone.

What a budget is solved on (`pruning.budget`). A method comes in as a `Narrow`, which makes one
block narrower; nothing else is asked of it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from analysis.measure import Batches
from analysis.vit import Block, ViT
from pruning.activations import Activations
from pruning.budget.curves import BUDGETED_STRUCTURES, BlockCurves, Curve, Narrow, Sensitivities
from pruning.cut import Scores, cut, select
from pruning.progress import Progress, quiet

SHARES = (0.875, 0.75, 0.5, 0.25, 0.125)  # of the dense width: where a curve is measured


def measure_sensitivities(
    model: ViT,
    batches: Batches,
    narrow: Narrow,
    structures: Collection[str] = BUDGETED_STRUCTURES,
    progress: Progress = quiet,
    place: Path | None = None,
) -> Sensitivities:
    """Mean KL(dense || narrowed) of the class probabilities, one structure of one block narrowed at a time.

    Of structures other than `structures` only the dense width is known. The dense residual stream
    before the block at hand lies on disk, in `place` or a temporary folder, batch by batch, and only the
    blocks from there on are run: half a forward pass for a point of a curve on average.

    Raises:
        ValueError: a model without a classifier, or no images.
        OSError: no room for the residual stream.
    """
    if not model.arch.num_classes:
        raise ValueError("sensitivities compare class probabilities, but the model has no classifier")
    blocks = []
    with torch.no_grad(), Activations(next(model.parameters()).device, place) as stored:
        stream = _DenseStream(stored, model, batches)
        for index, widths in enumerate(model.arch.blocks):
            curves = {}
            for number, name in enumerate(BUDGETED_STRUCTURES):
                progress(
                    "Measuring sensitivities", (index + number / len(BUDGETED_STRUCTURES)) / model.arch.depth
                )
                kept = measured_widths(getattr(widths, name))[: None if name in structures else 1]
                kl = [stream.divergence(narrow(index, name, width), index) for width in kept[1:]]
                curves[name] = Curve.measured(kept, (0.0, *kl))
            blocks.append(BlockCurves(**curves))
            stream.advance(index)
    progress("Measuring sensitivities", 1.0)
    return Sensitivities(tuple(blocks), stream.images)


def measured_widths(dense: int) -> tuple[int, ...]:
    """The widths a curve is measured at, falling from the dense one."""
    if not dense:  # half of the block is absent
        return (0,)
    shares = {max(1, round(share * dense)) for share in SHARES}
    return (dense, *sorted(shares - {dense}, reverse=True))


class _DenseStream:
    """The dense model's residual stream before one block and its class probabilities, on disk."""

    def __init__(self, stored: Activations, model: ViT, batches: Batches) -> None:
        self._stored, self._model, self._count, self.images = stored, model, 0, 0
        for images, _ in batches:
            x = model.embed(images.to(stored.device))
            stored.write(self._count, stream=x)
            for block in model.blocks:
                x, _ = block(x)
            stored.write(self._count, logits=model.classify(x))
            self._count, self.images = self._count + 1, self.images + len(x)
        if not self.images:
            raise ValueError("sensitivities need calibration images, got none")

    def divergence(self, narrowed: Block, index: int) -> float:
        """Mean KL divergence from the dense model with block `index` exchanged for `narrowed`."""
        total = 0.0
        for number in range(self._count):
            x, _ = narrowed(self._stored.read(number, "stream"))
            for block in self._model.blocks[index + 1 :]:
                x, _ = block(x)
            dense = self._stored.read(number, "logits")
            total += kl_divergence(dense, self._model.classify(x)).sum().item()
        return total / self.images

    def advance(self, index: int) -> None:
        """Take the stream through block `index`."""
        for number in range(self._count):
            x = self._stored.read(number, "stream")
            self._stored.write(number, stream=self._model.blocks[index](x)[0])


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
        own: dict[str, Any] = {
            name: (getattr(scores, name)[index],) for name in (*BUDGETED_STRUCTURES, "heads")
        }
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
