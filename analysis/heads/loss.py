"""What the loss says about heads and other parts: by slope, by ablation, and along a path.

All of it is asked by gates (`analysis.gates`), whose factors are written m: at m = 1 the model is
itself, and m_h = 0 takes head h out (`proj`'s bias stays). The loss is the cross-entropy of the
images' labels.
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

CHUNK = 8  # images worked on at once: bounds the memory, changes nothing else
STEPS = 16  # points of the Gauss-Legendre rule along the path from no heads to all


def gate_slopes(model: ViT, batches: Batches, structures: Iterable[str]) -> Gates:
    """|dL/dm| at m = 1, mean over images, for the gates of these structures: first-order Taylor.

    L is the cross-entropy of one image, and the absolute value is taken of each image's derivative,
    as Michel, Levy, Neubig 2019 do for heads; Molchanov et al. 2019 square the slope of such a gate
    instead, for neurons. Every image has gates of its own, so that nothing depends on the batches.

    Raises:
        ValueError: no images, or a model without classes.
    """
    own, wanted = _to_ask(model), tuple(structures)

    def slopes(images: Tensor, labels: Tensor) -> list[Tensor]:
        gates = open_gates(own.arch, wanted, rows=len(images))
        gates = gates.with_tensors(gate.to(images).requires_grad_() for gate in gates.tensors)
        with torch.enable_grad(), gated(own, gates):
            loss = F.cross_entropy(own(images), labels, reduction="sum")
        found = torch.autograd.grad(loss, gates.tensors)  # images do not meet: row b is image b's own
        return [slope.abs().sum(dim=0) for slope in found]

    return open_gates(own.arch, wanted).with_tensors(_means(own, batches, slopes))


def taylor(model: ViT, batches: Batches) -> tuple[Float[Tensor, " H"], ...]:
    """`gate_slopes` of the heads: per block, one value per head.

    The normalising of every layer to norm one in Michel, Levy, Neubig 2019 is left to the caller.

    Raises:
        ValueError: no images, or a model without classes.
    """
    return gate_slopes(model, batches, ["heads"]).heads


def ablation(model: ViT, batches: Batches) -> tuple[Float[Tensor, " H"], ...]:
    """How much the mean cross-entropy rises when one head alone is taken out, by captum's ablation.

    Michel, Levy, Neubig 2019 ablate single heads alike, and look at accuracy. Per block, one value
    per head; negative where the model does better without. For every head the blocks from its own
    on run once more; those before run once for all.

    Raises:
        ValueError: no images, or a model without classes.
    """
    from captum.attr import FeatureAblation  # takes seconds to import

    own = _to_ask(model)

    @torch.no_grad()
    def rises(images: Tensor, labels: Tensor) -> list[Tensor]:
        change = FeatureAblation(_Onward(own, images, labels))
        found: Tensor = change.attribute(_ones(own, 1), baselines=0.0)
        return [found[0]]

    return _by_block(own, _means(own, batches, rises))


def integrated_gradients(model: ViT, batches: Batches, steps: int = STEPS) -> tuple[Float[Tensor, " H"], ...]:
    """Each head's part in what all heads together add to the log-likelihood of the label.

    Integrated gradients (Sundararajan et al. 2017) by captum, over the mask, from 0 (no head gives
    anything) to 1; mean over images. Per block, one value per head; they sum up to the mean
    log-likelihood of the model minus that without any heads, as far as `steps` points see the path.

    Raises:
        ValueError: no images, a model without classes, or no steps.
    """
    from captum.attr import IntegratedGradients  # takes seconds to import

    if steps < 1:
        raise ValueError(f"integrated gradients need at least 1 step, got {steps}")
    own = _to_ask(model)

    def likelihood(mask: Tensor, images: Tensor, labels: Tensor) -> Tensor:
        with gated(own, head_gates(own.arch, mask)):
            return -F.cross_entropy(own(images), labels, reduction="none")

    def parts(images: Tensor, labels: Tensor) -> list[Tensor]:
        with torch.enable_grad():
            found: Tensor = IntegratedGradients(likelihood).attribute(
                _ones(own, len(images)),
                baselines=0.0,
                additional_forward_args=(images, labels),
                n_steps=steps,
                internal_batch_size=len(images),  # one point of the path at a time
            )
        return [found.sum(dim=0).detach()]

    return _by_block(own, _means(own, batches, parts))


class _Onward:
    """Log-likelihood of a few images under a mask; what lies before the first masked block is kept."""

    def __init__(self, model: ViT, images: Tensor, labels: Int[Tensor, " B"]) -> None:
        self._model, self._labels = model, labels
        self._streams = [model.embed(images)]  # before each block, and behind the last
        for block in model.blocks:
            self._streams.append(block(self._streams[-1]))

    def __call__(self, mask: Float[Tensor, "1 heads"]) -> Tensor:
        counts = [widths.heads for widths in self._model.arch.blocks]
        touched = [bool((factors != 1).any()) for factors in mask[0].split(counts)]
        first = touched.index(True) if any(touched) else len(counts)
        x = self._streams[first]
        with gated(self._model, head_gates(self._model.arch, mask)):
            for block in list(self._model.blocks)[first:]:
                x = block(x)
        return -F.cross_entropy(self._model.classify(x), self._labels, reduction="sum")


def _to_ask(model: ViT) -> ViT:
    """A copy to put gates into: others may be computing with the model meanwhile."""
    if model.arch.num_classes == 0:
        raise ValueError(
            "what a part is worth to the loss needs a model with classes, and this one has none: load a "
            "model with classes, or take a measure that needs no labels, such as snp"
        )
    return frozen_copy(model)


def _ones(model: ViT, rows: int) -> Float[Tensor, "rows heads"]:
    weight = next(model.parameters())
    return torch.ones(rows, sum(widths.heads for widths in model.arch.blocks)).to(weight)


def _means(
    model: ViT, batches: Batches, add: Callable[[Tensor, Tensor], Sequence[Tensor]]
) -> list[Float[Tensor, "..."]]:
    """Means over images of what `add` sums over a few of them, gathered in float64."""
    weight = next(model.parameters())
    totals: list[Tensor] = []
    images = 0
    for batch, labels in batches:
        for some, their in zip(batch.split(CHUNK), labels.split(CHUNK), strict=True):
            found = [part.double().cpu() for part in add(some.to(weight), their.to(weight.device))]
            totals = [total + part for total, part in zip(totals, found, strict=True)] if totals else found
        images += len(batch)
    if images == 0:
        raise ValueError("the loss is measured on calibration images, got none")
    return [(total / images).float() for total in totals]


def _by_block(model: ViT, found: Sequence[Tensor]) -> tuple[Float[Tensor, " H"], ...]:
    """Values of all heads in a row, block by block."""
    return found[0].split([widths.heads for widths in model.arch.blocks])
