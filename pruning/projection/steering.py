"""Calibration images steered towards other classes, so that few classes stand for many."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from analysis.measure import Batches
from analysis.vit import ViT

_STEPS = 3  # of an image towards another class
_STEP = 0.03  # of the standard deviation of its pixels, each
_CHUNK = 8  # images whose gradients are computed at once


def steer(model: ViT, images: Float[Tensor, "B C Y X"], start: int, share: float) -> Float[Tensor, "B C Y X"]:
    """Images of which a share is changed a little, so that the model sees another class [ours].

    Calibration images often show a few classes only, and a refit on them forgets what tells all
    the others apart. Small steps along the sign of the gradient (Goodfellow et al. 2015) bring
    the activations that the model itself takes for any class. The classes are spread evenly;
    `start` is the number of the first image. Without a classifier nothing is changed.
    """
    numbers = torch.arange(start, start + len(images), dtype=torch.float64)
    chosen = _chosen(numbers, share)
    if not model.arch.num_classes or not bool(chosen.any()):
        return images
    # multiples of the golden ratio modulo 1 leave no large gap, however many there are
    classes = (numbers * (5**0.5 - 1) / 2 % 1 * model.arch.num_classes).long().to(images.device)
    places = chosen.nonzero().flatten().to(images.device)
    chunks = ((images[some], classes[some]) for some in places.split(_CHUNK))
    return images.index_copy(0, places, torch.cat([_towards_class(model, *chunk) for chunk in chunks]))


def steered(model: ViT, batches: Batches, share: float) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of which a share of the images is steered, on the model's device."""
    for images, _, labels in steered_twice(model, batches, share):
        yield images, labels


def steered_twice(
    model: ViT, batches: Batches, share: float
) -> Iterator[tuple[Float[Tensor, "B C Y X"], Float[Tensor, "B C Y X"], Tensor]]:
    """The same, and beside each batch one in which only half of the share is steered, for no more work."""
    device, count = next(model.parameters()).device, 0
    for read, labels in batches:
        images = read.to(device)
        changed = steer(model, images, count, share)
        numbers = torch.arange(count, count + len(images), dtype=torch.float64)
        fewer = _chosen(numbers, share / 2).to(device)  # all of them are among those of the whole share
        yield changed, torch.where(fewer[:, None, None, None], changed, images), labels
        count += len(images)


def _chosen(numbers: Float[Tensor, " B"], share: float) -> Bool[Tensor, " B"]:
    """Which images are steered, evenly spread."""
    return ((numbers + 1) * share).floor() > (numbers * share).floor()


def _towards_class(model: ViT, x: Tensor, classes: Tensor) -> Tensor:
    step = _STEP * x.std(dim=(1, 2, 3), keepdim=True)
    for _ in range(_STEPS):
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            loss = nn.functional.cross_entropy(model(x), classes, reduction="sum")
            (slope,) = torch.autograd.grad(loss, x)
        x = x.detach() - step * slope.sign()
    return x
