"""Importance of heads and other parts for the loss: first-order Taylor, ablation, integrated gradients.

All of them use gates (`analysis.gates`), whose factors are written m: m = 1 leaves the model unchanged,
and m_h = 0 removes head h (`proj`'s bias stays). The loss is the cross-entropy of the images' labels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from analysis.frozen import frozen_copy
from analysis.gates import Gates, gated, head_gates, open_gates
from analysis.measure import Batches
from analysis.vit import ViT

CHUNK = 8  # images per forward and backward pass: bounds memory use and changes nothing else
STEPS = 16  # points of the Gauss-Legendre rule along the path from no heads to all


def gate_slopes(model: ViT, batches: Batches, structures: Iterable[str]) -> Gates:
    """First-order Taylor importance: |dL/dm| at m = 1 for the gates of these structures, mean over images.

    L is the cross-entropy of one image, and the absolute value is taken per image, as Michel, Levy,
    Neubig 2019 do for heads; Molchanov et al. 2019 square the derivative instead, for neurons. Every
    image has its own gates, so the result does not depend on the batches.

    Raises:
        ValueError: no images, or a model without classes.
    """
    own, structures = _copy_for_gates(model), tuple(structures)

    def slopes(images: Tensor, labels: Tensor) -> list[Tensor]:
        gates = open_gates(own.arch, structures, rows=len(images))
        gates = gates.with_tensors(gate.to(images).requires_grad_() for gate in gates.tensors)
        with torch.enable_grad(), gated(own, gates):
            loss = F.cross_entropy(own(images), labels, reduction="sum")
        # row b depends on image b only; gates of a half that a block lacks have no entries and no gradient
        grads = torch.autograd.grad(loss, gates.tensors, allow_unused=True, materialize_grads=True)
        return [grad.abs().sum(dim=0) for grad in grads]

    return open_gates(own.arch, structures).with_tensors(_means(own, batches, slopes))


def taylor(model: ViT, batches: Batches) -> tuple[Float[Tensor, " H"], ...]:
    """`gate_slopes` of the heads: per block, one value per head.

    Michel, Levy, Neubig 2019 also normalise every layer to norm one; that is left to the caller.

    Raises:
        ValueError: no images, or a model without classes.
    """
    return gate_slopes(model, batches, ["heads"]).heads


def ablation(model: ViT, batches: Batches) -> tuple[Float[Tensor, " H"], ...]:
    """Increase of the mean cross-entropy when a single head is removed, with captum's ablation.

    Michel, Levy, Neubig 2019 ablate single heads in the same way and measure accuracy. Per block, one
    value per head; negative if the model does better without it. For every head only its own block and
    those after it are recomputed.

    Raises:
        ValueError: no images, or a model without classes.
    """
    from captum.attr import FeatureAblation  # takes seconds to import

    own = _copy_for_gates(model)

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
    without any heads, up to the error of the integration with `steps` points.

    Raises:
        ValueError: no images, a model without classes, or fewer than one step.
    """
    from captum.attr import IntegratedGradients  # takes seconds to import

    if steps < 1:
        raise ValueError(f"integrated gradients need at least 1 step, got {steps}")
    own = _copy_for_gates(model)

    def likelihood(mask: Tensor, images: Tensor, labels: Tensor) -> Tensor:
        with gated(own, head_gates(own.arch, mask)):
            return -F.cross_entropy(own(images), labels, reduction="none")

    def attributions(images: Tensor, labels: Tensor) -> list[Tensor]:
        with torch.enable_grad():
            values: Tensor = IntegratedGradients(likelihood).attribute(
                _ones(own, len(images)),
                baselines=0.0,
                additional_forward_args=(images, labels),
                n_steps=steps,
                internal_batch_size=len(images),  # one point of the path at a time
            )
        return [values.sum(dim=0).detach()]

    return _by_block(own, _means(own, batches, attributions))


class _MaskedLikelihood:
    """Log-likelihood of a few images under a head mask; blocks before the first masked one run only once."""

    def __init__(self, model: ViT, images: Tensor, labels: Int[Tensor, " B"]) -> None:
        self._model, self._labels = model, labels
        # tokens and their sizes before each block and after the last
        self._streams: list[tuple[Tensor, Tensor | None]] = [(model.embed(images), None)]
        for block in model.blocks:
            self._streams.append(block(*self._streams[-1]))

    def __call__(self, mask: Float[Tensor, "1 heads"]) -> Tensor:
        counts = [widths.heads for widths in self._model.arch.blocks]
        masked = [bool((factors != 1).any()) for factors in mask[0].split(counts)]
        first = masked.index(True) if any(masked) else len(counts)
        tokens = self._streams[first]
        with gated(self._model, head_gates(self._model.arch, mask)):
            for block in list(self._model.blocks)[first:]:
                tokens = block(*tokens)
        return -F.cross_entropy(self._model.classify(*tokens), self._labels, reduction="sum")


def _copy_for_gates(model: ViT) -> ViT:
    """A copy to register gates on: the model itself may be in use elsewhere at the same time."""
    if model.arch.num_classes == 0:
        raise ValueError(
            "importance for the loss needs a model with classes, and this one has none: load a model "
            "with a classifier, or use a measure that needs no labels, such as snp"
        )
    return frozen_copy(model)


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
