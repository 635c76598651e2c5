"""Folding: after a selection, what removed parts did is folded into the weights that stay.

One shot: everything is measured on the activations of the dense model, half a block at a time, so that
the statistics of one layer are in memory and the activations on disk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from analysis.measure import Batches
from analysis.vit import Architecture, Block, ViT
from pruning.activations import Activations
from pruning.budget import Narrow, narrow_by_scores
from pruning.cut import BlockPlan, Plan, Scores, heads_only, select
from pruning.projection.block_parts import HalfBlock, Walk, halves, present, working_copy
from pruning.projection.streams import Still, Streams

Inputs = Iterable[Float[Tensor, "B N E"]]  # the residual stream before half a block, batch by batch


class Folding(Protocol):
    """How a method makes up for what it removed from half a block."""

    def measure(self, half: HalfBlock, inputs: Inputs) -> Any:
        """What `fold` has to know of the dense half, whatever is removed from it.

        Raises:
            ValueError: activations that are not finite.
        """
        ...

    def fold(self, known: Any, half: HalfBlock, narrow: HalfBlock, kept: BlockPlan) -> None:
        """Change the weights of `narrow`, which was cut from `half` and has the parts that are `kept`."""
        ...


def fold(
    dense: ViT,
    cut: ViT,
    plan: Plan,
    batches: Batches,
    folding: Folding,
    images: int,
    progress: Callable[[float], None] = lambda _: None,
    place: Path | None = None,
) -> ViT:
    """A copy of `cut`, which was cut from `dense` by `plan`, with what was removed folded into the rest.

    At most so many `images` are read. Halves of blocks of which nothing was removed stay as they are.
    Activations lie on disk, in `place` or a temporary folder.

    Raises:
        ValueError: no images, or activations that are not finite.
        OSError: no room for the activations.
    """
    large, small = working_copy(dense), working_copy(cut)
    with torch.no_grad(), Activations(large.pos_embed.device, place) as stored:
        streams = Streams(stored, large, batches, images, share=0.0)
        for (number, half), (_, narrow) in zip(present(large), present(small), strict=True):
            if narrow.reader.out_features < half.reader.out_features:
                folding.fold(folding.measure(half, _dense(streams)), half, narrow, plan.blocks[number // 2])
            streams.advance(half.through, "dense")
            progress((number + 1) / (2 * len(plan.blocks)))
    return small.to(next(cut.parameters())).train(cut.training).requires_grad_(True)


def narrow_folded(
    model: ViT,
    scores: Scores,
    batches: Batches,
    folding: Folding,
    images: int,
    place: Path | None = None,
) -> Narrow:
    """Narrowing that keeps what scores highest and folds the rest; asked for blocks in rising order.

    Activations lie on disk, in `place` or a temporary folder.

    Raises:
        ValueError: no images; from the function returned, a block before the last one asked for.
    """
    return _Narrowing(model, scores, batches, folding, images, place)


class _Narrowing:
    """A `Narrow` with the dense model's activations before the block it has come to."""

    def __init__(
        self,
        model: ViT,
        scores: Scores,
        batches: Batches,
        folding: Folding,
        images: int,
        place: Path | None,
    ) -> None:
        self._model, self._scores, self._folding = model, scores, folding
        self._select = narrow_by_scores(model, scores)
        self._dense = working_copy(model)
        stored = Activations(self._dense.pos_embed.device, place)  # removed with this object
        with torch.no_grad():
            self._streams = Streams(stored, self._dense, batches, images, share=0.0)
        self._walk = Walk(self._dense, partial(self._streams.advance, name="dense"))

    @torch.no_grad()
    def __call__(self, index: int, structure: str, width: int) -> Block:
        block, known = self._walk.come_to(index), self._walk.known
        narrow = self._select(index, structure, width)
        number = int(structure == "mlp")
        attention, half = halves(block)[0], halves(block)[number]
        small = halves(narrow)[number]
        if half is None or small is None:
            raise ValueError(f"block {index} has no {structure} to narrow")
        if structure not in known:
            before = Still(self._streams, attention.through if number and attention else lambda x: x)
            known[structure] = self._folding.measure(half, _dense(before))
        self._folding.fold(known[structure], half, small, self._kept(index, structure, width))
        return narrow

    def _kept(self, index: int, structure: str, width: int) -> BlockPlan:
        """What `narrow_by_scores` kept of the block."""
        arch = self._model.arch
        blocks = list(arch.blocks)
        widths: dict[str, Any] = {structure: width}
        blocks[index] = replace(blocks[index], **widths)
        return select(self._scores, arch, replace(arch, blocks=tuple(blocks))).blocks[index]


def whole_in_foldings(dense: Architecture) -> dict[str, str]:
    """The structures of a model that cannot be folded into what stays, each with the reason."""
    whole = {}
    if dense.rope:
        whole["qk"] = "their planes are turned each by its own angle (rotary positions), so none can stand in"
    if dense.qk_norm:
        whole["qk"] = "queries and keys of a model with qk-norm stay whole"
    if dense.mlp_norm:
        whole["mlp"] = "a norm between the neurons and fc2 (mlp_norm) depends on all of them"
    return whole


def halves_before(model: ViT, batches: Batches) -> Iterator[tuple[int, HalfBlock, Float[Tensor, "B N E"]]]:
    """Every half by the number of its block, with the residual stream before it, batch by batch.

    No tokens merge, as in all projections.
    """
    own = working_copy(model)
    for images, _ in batches:
        x = own.embed(images.to(own.pos_embed))
        for number, half in present(own):
            yield number // 2, half, x
            x = half.through(x)


def unranked(arch: Architecture) -> Scores:
    """Scores that are all zero, to be replaced for what a method ranks."""
    return heads_only(arch, [torch.zeros(widths.heads) for widths in arch.blocks])


def _dense(streams: Streams | Still) -> Iterator[Float[Tensor, "B N E"]]:
    return (before for _, before, _ in streams)
