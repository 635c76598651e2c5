"""What the loss says about heads: masks on their outputs, by ablation and by their derivative.

A mask m holds one factor per head of every block, all blocks in a row; at m = 1 the model is
itself, and m_h = 0 takes head h out (`proj`'s bias stays).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from analysis.evaluate import Batches
from analysis.vit import Attention, ViT


@contextmanager
def masked_heads(model: ViT, mask: Float[Tensor, "B heads"]) -> Iterator[None]:
    """Inside the `with`, every head's output is multiplied by its factor of the mask.

    `heads` counts those of all blocks; one row for all images, or one for each.

    Raises:
        ValueError: another number of factors than the model has heads.
    """
    counts = [widths.heads for widths in model.arch.blocks]
    if mask.ndim != 2 or mask.shape[1] != sum(counts):
        raise ValueError(f"a mask of this model has {sum(counts)} factors a row, got {tuple(mask.shape)}")
    with ExitStack() as hooks:
        for block, factors in zip(model.blocks, mask.split(counts, dim=1), strict=True):
            hook = _multiply(block.attn, factors)
            hooks.callback(block.attn.proj.register_forward_pre_hook(hook).remove)
        yield


def _multiply(attn: Attention, factors: Tensor) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor]]:
    def before_proj(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor]:
        by_head = inputs[0].unflatten(-1, (attn.heads, -1))  # B N H Dv
        return ((by_head * factors[:, None, :, None]).flatten(2),)

    return before_proj


def taylor(model: ViT, batches: Batches) -> tuple[Float[Tensor, " H"], ...]:
    """|dL/dm_h| at m = 1, mean over images (Michel et al. 2019): per block, one value per head.

    L is the cross-entropy of an image; the absolute value is taken of each image's derivative, as in
    the paper. Its normalising of every layer to norm one is left to the caller.

    Raises:
        ValueError: no images, or a model without classes.
    """
    own = _own_copy(model)
    total, count = torch.zeros(_heads(model)), 0
    for images, labels in batches:
        mask = torch.ones(len(images), len(total), device=images.device, requires_grad=True)
        with torch.enable_grad(), masked_heads(own, mask):
            loss = F.cross_entropy(own(images), labels, reduction="sum")
        (slope,) = torch.autograd.grad(loss, mask)  # images do not meet: row b is image b's own
        total += slope.abs().sum(dim=0).cpu()
        count += len(images)
    return _per_block(model, total, count)


def ablation(model: ViT, batches: Batches) -> tuple[Float[Tensor, " H"], ...]:
    """How much the mean cross-entropy rises when one head alone is taken out, by captum's ablation.

    Per block, one value per head; negative where the model does better without. Costs a forward
    pass for every head, and one more.

    Raises:
        ValueError: no images, or a model without classes.
    """
    from captum.attr import FeatureAblation  # takes seconds to import

    own = _own_copy(model)
    total, count = torch.zeros(_heads(model)), 0
    for images, labels in batches:
        change = FeatureAblation(partial(_log_likelihood, model=own, images=images, labels=labels))
        whole = torch.ones(1, len(total), device=images.device)
        total += change.attribute(whole, baselines=0.0)[0].cpu()
        count += len(images)
    return _per_block(model, total, count)


@torch.no_grad()
def _log_likelihood(mask: Tensor, model: ViT, images: Tensor, labels: Int[Tensor, " B"]) -> Tensor:
    """Of a whole batch under a mask: what it falls by is what the loss rises by."""
    with masked_heads(model, mask):
        return -F.cross_entropy(model(images), labels, reduction="sum")


def _heads(model: ViT) -> int:
    return sum(widths.heads for widths in model.arch.blocks)


def _own_copy(model: ViT) -> ViT:
    """A copy to put masks on, in evaluation mode: others may be computing with the model meanwhile."""
    if model.arch.num_classes == 0:
        raise ValueError("the loss needs a model with classes: load weights with a classifier")
    frozen: dict[int, Any] = {
        id(w): nn.Parameter(w.detach(), requires_grad=False) for w in model.parameters()
    }
    return copy.deepcopy(model, frozen).eval()  # modules of its own around the same weights


def _per_block(model: ViT, total: Tensor, images: int) -> tuple[Tensor, ...]:
    if images == 0:
        raise ValueError("the importance of heads needs calibration images, got none")
    return (total / images).split([widths.heads for widths in model.arch.blocks])
