"""How much each structure of each block matters: the damage done by narrowing it alone.

What a budget is solved on (`pruning.budget`). A method comes in as a `Narrow`, which makes one
block narrower; nothing else is asked of it.

Running the rest of the network costs most, so it is done for few widths of a curve. How the others
compare with them is read off the block's own outputs, which the whole curve is made of in a moment.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import Any

import torch
from torch import Tensor

from analysis.measure import Batches
from analysis.outputs import Output, divergence, needed_tokens, read_output, task_of
from analysis.vit import Block, ViT
from pruning.activations import Activations
from pruning.budget.curves import BUDGETED_STRUCTURES, BlockCurves, Curve, Narrow, Sensitivities, doubt
from pruning.cut import Scores, cut, select
from pruning.progress import Progress, quiet

SHARES = (0.875, 0.75, 0.5, 0.25, 0.125)  # of the dense width: the widths of a curve
_ATTENTION = 32  # images, or half of them if that is more: only neurons that fire rarely need all
_LOCAL = 8  # images on which the outputs of a narrowed block are compared with the dense block's
_DOUBT = 0.5  # in the logarithm of a divergence: what its prediction may be off before it is measured
_FIRST = (1.0, 1.0, 2.0)  # how long the curves of the first block take in comparison, before that is known
_MAKING = 4  # blocks that could be run while the narrower blocks of a curve are made


def measure_sensitivities(
    model: ViT,
    batches: Batches,
    narrow: Narrow,
    structures: Collection[str] = BUDGETED_STRUCTURES,
    progress: Progress = quiet,
    place: Path | None = None,
) -> Sensitivities:
    """Mean divergence from the dense model (`analysis.outputs`), one structure of one block narrowed alone.

    Of structures other than `structures` only the dense width is known. Two or three widths of a curve are
    measured, the others predicted (`Curve.predicted`). The dense residual stream before the block at
    hand lies on disk, in `place` or a temporary folder, batch by batch, and only the blocks from there on
    are run: half a forward pass for a measured width on average.

    Raises:
        ValueError: no images.
        OSError: no room for the residual stream.
    """
    blocks = []
    with torch.no_grad(), Activations(next(model.parameters()).device, place) as stored:
        stream, paces = _DenseStream(stored, model, batches), _Paces()
        for index, widths in enumerate(model.arch.blocks):
            curves = {}
            for number, name in enumerate(BUDGETED_STRUCTURES):
                progress("Measuring sensitivities", _share_done(model.arch.depth, index, paces.done(number)))
                fixed = name not in structures or (name == "qk" and model.arch.qk_norm)
                step = 2 if name == "qk" and model.arch.rope else 1
                kept = measured_widths(getattr(widths, name), step)[: 1 if fixed else None]
                made = [narrow(index, name, width) for width in kept[1:]]
                curves[name] = _curve(stream, index, kept, made, stream.needed(name))
                paces.took(number)
            blocks.append(BlockCurves(**curves))
            stream.advance(index)
    progress("Measuring sensitivities", 1.0)
    return Sensitivities(tuple(blocks), stream.images)


def measured_widths(dense: int, step: int = 1) -> tuple[int, ...]:
    """The widths of a curve, falling from the dense one; multiples of `step`."""
    if not dense:  # half of the block is absent
        return (0,)
    shares = {max(step, round(share * dense / step) * step) for share in SHARES}
    return (dense, *sorted(shares - {dense}, reverse=True))


def _share_done(depth: int, index: int, part: float) -> float:
    """Share of the work done before a part of block `index`: earlier blocks take longer."""
    work = [depth - block + _MAKING for block in range(depth)]
    return (sum(work[:index]) + work[index] * part) / sum(work)


class _Paces:
    """How long the curves of a block take in comparison, by those done so far.

    An MLP takes some times longer than query-key pairs, and how many depends on the method: with equal parts
    the time left would rise and fall with every block.
    """

    def __init__(self) -> None:
        self._known: Sequence[float] = _FIRST
        self._seconds = [0.0] * len(BUDGETED_STRUCTURES)
        self._now = monotonic()

    def took(self, number: int) -> None:
        """Curve `number` is done."""
        before, self._now = self._now, monotonic()
        self._seconds[number] += self._now - before
        if number == len(self._seconds) - 1:
            self._known = tuple(self._seconds)

    def done(self, number: int) -> float:
        """The part of a block that is done before its curve `number`."""
        return sum(self._known[:number]) / sum(self._known)


def _curve(
    stream: _DenseStream, index: int, widths: tuple[int, ...], made: Sequence[Block], images: int
) -> Curve:
    """The curve of narrower blocks, one for each width but the dense one, on the first images.

    The network is run for the second and for the narrowest, and for one between them where the
    divergence grows at quite another rate than the local error, which then tells too little.
    """
    if not made:
        return Curve(widths, (0.0,))
    errors = [stream.local_error(block, index) for block in made]
    kl = {at: stream.divergence(made[at], index, images) for at in {min(1, len(made) - 1), len(made) - 1}}
    between = len(made) // 2
    if between not in kl and doubt(errors, kl) > _DOUBT:
        kl[between] = stream.divergence(made[between], index, images)
    return Curve.predicted(widths, errors, kl)


class _DenseStream:
    """The dense model's residual stream before one block, and its output, on disk."""

    def __init__(self, stored: Activations, model: ViT, batches: Batches) -> None:
        self._stored, self._model, self._count, self.images = stored, model, 0, 0
        self._read = needed_tokens(model.arch)
        self._local: tuple[Tensor, Tensor] | None = None
        for images, _ in batches:
            x = model.embed(images.to(stored.device))
            stored.write(self._count, stream=x)
            for index, block in enumerate(model.blocks):
                x = self._through(block, index, x)
            self._write(self._count, read_output(model, x))
            self._count, self.images = self._count + 1, self.images + len(x)
        if not self.images:
            raise ValueError("sensitivities need calibration images, got none")

    def _write(self, number: int, output: Output) -> None:
        self._stored.write(number, vectors=output.vectors)
        if output.patches is not None:
            self._stored.write(number, patches=output.patches)
        self._patches = output.patches is not None

    def _output(self, number: int, images: int) -> Output:
        """The dense model's, for at most so many images of a batch."""
        patches = self._stored.read(number, "patches")[:images] if self._patches else None
        return Output(task_of(self._model), self._stored.read(number, "vectors")[:images], patches)

    def needed(self, structure: str) -> int:
        """Number of images that a structure's divergences are measured on."""
        return self.images if structure == "mlp" else min(self.images, max(_ATTENTION, self.images // 2))

    def divergence(self, narrowed: Block, index: int, images: int) -> float:
        """Mean divergence from the dense model with block `index` exchanged, on the first `images`."""
        total, count = 0.0, 0
        for number in range(self._count):
            dense = self._output(number, images - count)
            x = self._through(narrowed, index, self._stored.read(number, "stream")[: images - count])
            for later in range(index + 1, self._model.arch.depth):
                x = self._through(self._model.blocks[later], later, x)
            total += divergence(dense, read_output(self._model, x)).sum().item()
            count += len(x)
            if count == images:
                break
        return total / images

    def local_error(self, narrowed: Block, index: int) -> float:
        """Mean squared distance of what `narrowed` puts out from what block `index` does, on a few images."""
        if self._local is None:  # the same for all widths of all curves of a block
            x = self._stored.read(0, "stream")[:_LOCAL].clone()  # not the whole batch
            self._local = x, self._through(self._model.blocks[index], index, x)
        x, dense = self._local
        return (self._through(narrowed, index, x) - dense).square().mean().item()

    def advance(self, index: int) -> None:
        """Take the stream through block `index`."""
        for number in range(self._count):
            x = self._stored.read(number, "stream")
            self._stored.write(number, stream=self._through(self._model.blocks[index], index, x))
        self._local = None

    def _through(self, block: Block, index: int, x: Tensor) -> Tensor:
        """The stream behind a block in place of block `index`; behind the last only what is needed of it."""
        return block(x, count=self._read if index == self._model.arch.depth - 1 else None)[0]


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
