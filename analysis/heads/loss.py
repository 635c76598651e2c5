"""What the loss says about heads: masks on their outputs, by ablation, by slope, and along a path.

A mask m holds one factor per head of every block, all blocks in a row; at m = 1 the model is
itself, and m_h = 0 takes head h out (`proj`'s bias stays). The loss is the cross-entropy of the
images' labels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from analysis.frozen import frozen_copy
from analysis.measure import Batches
from analysis.vit import Attention, ViT

CHUNK = 8  # images worked on at once: bounds the memory, changes nothing else
STEPS = 16  # points of the Gauss-Legendre rule along the path from no heads to all


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


def without_heads(model: ViT, gone: Iterable[tuple[int, int]]) -> ViT:
    """A model with the same weights in which these heads, (block, head) each, give nothing.

    All heads of a block may go: its attention then adds `proj`'s bias alone.

    Raises:
        ValueError: the model has no such head.
    """
    own = frozen_copy(model)
    masks = [torch.ones(1, widths.heads) for widths in model.arch.blocks]
    for block, head in gone:
        if not (0 <= block < model.arch.depth and 0 <= head < masks[block].shape[1]):
            raise ValueError(f"this model has no head {head} in block {block}")
        masks[block][0, head] = 0
    for module, factors in zip(own.blocks, masks, strict=True):
        hook = _multiply(module.attn, factors.to(module.attn.proj.weight))
        module.attn.proj.register_forward_pre_hook(hook)
    return own


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
    own = _to_ask(model)

    def slopes(images: Tensor, labels: Tensor) -> Tensor:
        mask = _whole(own, len(images)).requires_grad_()
        with torch.enable_grad(), masked_heads(own, mask):
            loss = F.cross_entropy(own(images), labels, reduction="sum")
        (slope,) = torch.autograd.grad(loss, mask)  # images do not meet: row b is image b's own
        return slope.abs().sum(dim=0)

    return _mean(own, batches, slopes)


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
    def rises(images: Tensor, labels: Tensor) -> Tensor:
        change = FeatureAblation(_Onward(own, images, labels))
        found: Tensor = change.attribute(_whole(own, 1), baselines=0.0)
        return found[0]

    return _mean(own, batches, rises)


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
        with masked_heads(own, mask):
            return -F.cross_entropy(own(images), labels, reduction="none")

    def parts(images: Tensor, labels: Tensor) -> Tensor:
        with torch.enable_grad():
            found: Tensor = IntegratedGradients(likelihood).attribute(
                _whole(own, len(images)),
                baselines=0.0,
                additional_forward_args=(images, labels),
                n_steps=steps,
                internal_batch_size=len(images),  # one point of the path at a time
            )
        return found.sum(dim=0).detach()

    return _mean(own, batches, parts)


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
        with masked_heads(self._model, mask):
            for block in list(self._model.blocks)[first:]:
                x = block(x)
        return -F.cross_entropy(self._model.classify(x), self._labels, reduction="sum")


def _to_ask(model: ViT) -> ViT:
    """A copy to put masks on: others may be computing with the model meanwhile."""
    if model.arch.num_classes == 0:
        raise ValueError(
            "what heads are worth to the loss needs a model with classes, and this one has none: load a "
            "model with classes, or take a measure that needs no labels, such as snp"
        )
    return frozen_copy(model)


def _whole(model: ViT, rows: int) -> Float[Tensor, "rows heads"]:
    weight = next(model.parameters())
    return torch.ones(rows, sum(widths.heads for widths in model.arch.blocks)).to(weight)


def _mean(
    model: ViT, batches: Batches, add: Callable[[Tensor, Tensor], Float[Tensor, " heads"]]
) -> tuple[Float[Tensor, " H"], ...]:
    """Mean over images of what `add` sums over a few of them, by block."""
    counts = [widths.heads for widths in model.arch.blocks]
    weight = next(model.parameters())
    total, images = torch.zeros(sum(counts), dtype=torch.float64), 0
    for batch, labels in batches:
        for some, their in zip(batch.split(CHUNK), labels.split(CHUNK), strict=True):
            total += add(some.to(weight), their.to(weight.device)).double().cpu()
        images += len(batch)
    if images == 0:
        raise ValueError("the importance of heads needs calibration images, got none")
    return (total / images).float().split(counts)
