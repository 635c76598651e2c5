"""Importance of heads and other parts for the loss: first-order Taylor, ablation, integrated gradients.

All of them use gates (`analysis.gates`), whose factors are written m: m = 1 leaves the model unchanged,
and m_h = 0 removes head h (`proj`'s bias stays). The loss is the cross-entropy of the images' labels; of a
model without a classifier it is the divergence of its features from what they are with all gates open
(`analysis.outputs`), and labels play no part [ours].
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from analysis.frozen import frozen_copy
from analysis.gates import Gates, gated, head_gates, open_gates
from analysis.measure import Batches
from analysis.outputs import (
    FEATURES,
    Output,
    divergence,
    gives_patches,
    output,
    probe,
    read_output,
    task_of,
)
from analysis.vit import ViT

CHUNK = 8  # images per forward and backward pass: bounds memory use and changes nothing else
PROBES = 4  # random scalars whose slopes tell the curvature of the divergence of features
STEPS = 16  # points of the Gauss-Legendre rule along the path from no heads to all


def gate_slopes(model: ViT, batches: Batches, structures: Iterable[str]) -> Gates:
    """First-order Taylor importance: |dL/dm| at m = 1 for the gates of these structures, mean over images.

    L is the cross-entropy of one image, and the absolute value is taken per image, as Michel, Levy,
    Neubig 2019 do for heads; Molchanov et al. 2019 square the derivative instead, for neurons. Every
    image has its own gates, so the result does not depend on the batches.

    Of features, whose divergence has no slope where all gates are open, it is the divergence that closing a
    gate is predicted to make by the Gauss-Newton curvature, E (ds/dm)^2 / 2 with s of `outputs.probe`
    [ours].

    Raises:
        ValueError: no images.
    """
    own, structures = frozen_copy(model), tuple(structures)
    generator = torch.Generator(next(own.parameters()).device).manual_seed(0)
    of_features = task_of(own) == FEATURES

    def slopes(images: Tensor, labels: Tensor) -> list[Tensor]:
        gates = open_gates(own.arch, structures, rows=len(images))
        gates = gates.with_tensors(gate.to(images).requires_grad_() for gate in gates.tensors)
        with torch.enable_grad(), gated(own, gates):
            given = output(own, images)
            if of_features:
                losses = [probe(given, generator) for _ in range(PROBES)]
            else:
                losses = [F.cross_entropy(given.vectors, labels, reduction="sum")]
        # row b depends on image b only; gates of a half that a block lacks have no entries and no gradient
        slope = partial(torch.autograd.grad, inputs=gates.tensors, allow_unused=True, materialize_grads=True)
        drawn = list(zip(*(slope(loss, retain_graph=of_features) for loss in losses), strict=True))
        if not of_features:
            return [grad.abs().sum(dim=0) for (grad,) in drawn]
        squares = (torch.stack(grads).square() for grads in drawn)
        return [square.sum(dim=(0, 1)) / (2 * PROBES) for square in squares]

    return open_gates(own.arch, structures).with_tensors(_means(own, batches, slopes))


def taylor(model: ViT, batches: Batches) -> tuple[Float[Tensor, " H"], ...]:
    """`gate_slopes` of the heads: per block, one value per head.

    Michel, Levy, Neubig 2019 also normalise every layer to norm one; that is left to the caller.

    Raises:
        ValueError: no images.
    """
    return gate_slopes(model, batches, ["heads"]).heads


def ablation(model: ViT, batches: Batches) -> tuple[Float[Tensor, " H"], ...]:
    """Increase of the mean loss when a single head is removed, with captum's ablation.

    Michel, Levy, Neubig 2019 ablate single heads in the same way and measure accuracy. Per block, one
    value per head; negative if the model does better without it. For every head only its own block and
    those after it are recomputed.

    Raises:
        ValueError: no images.
    """
    from captum.attr import FeatureAblation  # takes seconds to import

    own = frozen_copy(model)

    @torch.no_grad()
    def increases(images: Tensor, labels: Tensor) -> list[Tensor]:
        attribution = FeatureAblation(_MaskedLikelihood(own, images, labels))
        values: Tensor = attribution.attribute(_ones(own, 1), baselines=0.0)
        return [values[0]]

    return _by_block(own, _means(own, batches, increases))


def integrated_gradients(model: ViT, batches: Batches, steps: int = STEPS) -> tuple[Float[Tensor, " H"], ...]:
    """Integrated gradients of the label's log-likelihood along the head mask, mean over images.

    Integrated gradients (Sundararajan et al. 2017) with captum, from mask 0 (no heads) to mask 1 (all
    heads). Per block, one value per head. The values sum to the model's mean log-likelihood minus that
    without any heads, up to the error of the integration with `steps` points. Of features it is minus the
    divergence in place of the log-likelihood.

    Raises:
        ValueError: no images, or fewer than one step.
    """
    from captum.attr import IntegratedGradients  # takes seconds to import

    if steps < 1:
        raise ValueError(f"integrated gradients need at least 1 step, got {steps}")
    own = frozen_copy(model)

    def attributions(images: Tensor, labels: Tensor) -> list[Tensor]:
        wanted = _Wanted.of(own, images, labels)

        def likelihood(mask: Tensor, images: Tensor) -> Tensor:
            with gated(own, head_gates(own.arch, mask)):
                return -wanted.losses(output(own, images))

        with torch.enable_grad():
            values: Tensor = IntegratedGradients(likelihood).attribute(
                _ones(own, len(images)),
                baselines=0.0,
                additional_forward_args=(images,),
                n_steps=steps,
                internal_batch_size=len(images),  # one point of the path at a time
            )
        return [values.sum(dim=0).detach()]

    return _by_block(own, _means(own, batches, attributions))


@dataclass(frozen=True)
class _Wanted:
    """What outputs are compared with: the images' labels, or the features that the whole model gives."""

    labels: Int[Tensor, " B"]
    features: Output | None

    @classmethod
    @torch.no_grad()
    def of(cls, model: ViT, images: Tensor, labels: Int[Tensor, " B"]) -> _Wanted:
        return cls(labels, output(model, images) if task_of(model) == FEATURES else None)

    def losses(self, given: Output) -> Float[Tensor, " B"]:
        """The loss of each image."""
        if self.features is None:
            return F.cross_entropy(given.vectors, self.labels, reduction="none")
        return divergence(self.features, given).to(given.vectors)


class _MaskedLikelihood:
    """Minus the loss of a few images under a head mask; blocks before the first masked one run only once."""

    def __init__(self, model: ViT, images: Tensor, labels: Int[Tensor, " B"]) -> None:
        self._model, self._wanted = model, _Wanted.of(model, images, labels)
        # before each block and after the last: tokens, their sizes, and how many mergings there were
        self._streams: list[tuple[Tensor, Tensor | None, int]] = [(model.embed(images), None, 0)]
        self._places: list[Tensor] | None = [] if gives_patches(model.arch) else None
        for block in model.blocks:
            x, sizes, _ = self._streams[-1]
            x, sizes = block(x, sizes, None, self._places)
            self._streams.append((x, sizes, len(self._places or ())))

    def __call__(self, mask: Float[Tensor, "1 heads"]) -> Tensor:
        counts = [widths.heads for widths in self._model.arch.blocks]
        masked = [bool((factors != 1).any()) for factors in mask[0].split(counts)]
        first = masked.index(True) if any(masked) else len(counts)
        x, sizes, merged = self._streams[first]
        places = None if self._places is None else self._places[:merged]
        with gated(self._model, head_gates(self._model.arch, mask)):
            for block in list(self._model.blocks)[first:]:
                x, sizes = block(x, sizes, None, places)
        return -self._wanted.losses(read_output(self._model, x, sizes, places or ())).sum()


def _ones(model: ViT, rows: int) -> Float[Tensor, "rows heads"]:
    weight = next(model.parameters())
    return torch.ones(rows, sum(widths.heads for widths in model.arch.blocks)).to(weight)


def _means(
    model: ViT, batches: Batches, sums: Callable[[Tensor, Tensor], Sequence[Tensor]]
) -> list[Float[Tensor, "..."]]:
    """Means over images, accumulated in float64; `sums` returns the sums over the images of one chunk."""
    weight = next(model.parameters())
    totals: list[Tensor] = []
    images = 0
    for batch, labels in batches:
        for chunk, targets in zip(batch.split(CHUNK), labels.split(CHUNK), strict=True):
            added = [part.double().cpu() for part in sums(chunk.to(weight), targets.to(weight.device))]
            totals = [total + part for total, part in zip(totals, added, strict=True)] if totals else added
        images += len(batch)
    if images == 0:
        raise ValueError("the loss is measured on calibration images, got none")
    return [(total / images).float() for total in totals]


def _by_block(model: ViT, values: Sequence[Tensor]) -> tuple[Float[Tensor, " H"], ...]:
    """Split the values of all heads, given as one vector, by block."""
    return values[0].split([widths.heads for widths in model.arch.blocks])
