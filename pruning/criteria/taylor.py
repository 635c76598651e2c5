"""Criteria that ask the loss what a part is worth: first-order Taylor, and head ablation.

Both think of a gate on every part: 1 leaves the model as it is, 0 takes the part out exactly as
surgery does. Taylor measures how the loss begins to change as a gate closes, ablation closes it.
The loss is the cross-entropy of the calibration images' labels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from analysis.frozen import frozen_copy
from analysis.heads import CHUNK
from analysis.heads import ablation as ablated
from analysis.measure import Batches
from analysis.vit import Architecture, ViT
from pruning.cut import Scores, heads_only
from pruning.options import ImageOptions, option_field


@dataclass(frozen=True)
class LossOptions(ImageOptions):
    """Settings of the criteria that measure the loss."""

    images: int = option_field(64, 1, 4096, "Calibration images with labels that the loss is measured on.")


@dataclass(frozen=True)
class Gates:
    """A factor for every part, for each image of a batch on its own.

    `qk` stands on a pair's term q_i k_i^T of the attention scores, `v` on a channel of a head's
    output (the same as on the value neuron: attention is linear in it), `heads` on a head's
    output, `mlp` on a neuron behind its activation, all per block. `embed` stands in every norm,
    the only places where the residual stream is read.
    """

    qk: tuple[Float[Tensor, "B H Dqk"], ...]
    v: tuple[Float[Tensor, "B H Dv"], ...]
    mlp: tuple[Float[Tensor, "B F"], ...]
    heads: tuple[Float[Tensor, "B H"], ...]
    embed: Float[Tensor, "B E"]

    @property
    def flat(self) -> tuple[Tensor, ...]:
        """All of them in one row, as `_grouped` takes them."""
        return (*self.qk, *self.v, *self.mlp, *self.heads, self.embed)


def taylor(model: ViT, batches: Batches, options: LossOptions) -> Scores:
    """First-order Taylor: mean over the images of |dL/dgate|, with L an image's own loss.

    The expected absolute slope is the score of Michel, Levy, Neubig 2019 for heads; Molchanov et
    al. 2019 square the slope of such a gate instead, for neurons. Which gate stands for a pair,
    a value channel and a residual channel is [ours]: see `Gates`. Every image has gates of its
    own, so that the scores do not depend on the batches.

    Raises:
        ValueError: a model without a classifier, or no calibration images.
    """
    _require_classes(model, "first-order Taylor")
    twin, totals, count = frozen_copy(model), [torch.zeros(())] * (4 * model.arch.depth + 1), 0
    for images, labels in batches:
        for some, their in zip(images.split(CHUNK), labels.split(CHUNK), strict=True):
            slopes = _slopes(twin, some, their)
            totals = [
                total + slope.abs().sum(dim=0).cpu() for total, slope in zip(totals, slopes, strict=True)
            ]
        count += len(images)
    _require_images(count, "first-order Taylor")
    return Scores(*_grouped([total / count for total in totals]))


def ablation(model: ViT, batches: Batches, options: LossOptions) -> Scores:
    """Head ablation (`analysis.heads.ablation`) as a criterion; it ranks heads only, all else is zero.

    Raises:
        ValueError: a model without a classifier, or no calibration images.
    """
    _require_classes(model, "head ablation")
    return heads_only(model.arch, ablated(model, batches))


def gated_logits(
    model: ViT, images: Float[Tensor, "B C Y X"], gates: Gates
) -> Float[Tensor, "B num_classes"]:
    """Logits of a model with its parts under gates; `model` is not touched.

    With gates of 0 and 1 these are the logits of `surgery.mask`, for every structure.
    """
    twin = frozen_copy(model)
    with _gated(twin, gates):
        return twin(images)


def open_gates(arch: Architecture, like: Tensor) -> Gates:
    """Gates of 1 for each image of `like`, on its device and of its kind."""

    def ones(*shape: int) -> Tensor:
        return like.new_ones(len(like), *shape)

    return Gates(
        qk=tuple(ones(widths.heads, widths.qk) for widths in arch.blocks),
        v=tuple(ones(widths.heads, widths.v) for widths in arch.blocks),
        mlp=tuple(ones(widths.mlp) for widths in arch.blocks),
        heads=tuple(ones(widths.heads) for widths in arch.blocks),
        embed=ones(arch.embed_dim),
    )


def _slopes(twin: ViT, images: Tensor, labels: Tensor) -> Sequence[Tensor]:
    """dL/dgate of every gate of every image: the loss is summed, and images have their own gates."""
    images, labels = _on_device(twin, images, labels)
    gates = open_gates(twin.arch, images)
    for gate in gates.flat:
        gate.requires_grad_()
    with torch.enable_grad(), _gated(twin, gates):
        return torch.autograd.grad(_loss(twin(images), labels), gates.flat)


def _grouped(flat: Sequence[Tensor]) -> tuple[Any, ...]:
    """`Gates.flat` undone: qk, v, mlp, heads, embed."""
    depth = len(flat) // 4
    return (*(tuple(flat[i * depth : (i + 1) * depth]) for i in range(4)), flat[-1])


@contextmanager
def _gated(twin: ViT, gates: Gates) -> Iterator[None]:
    """Put the gates into a model for the length of a `with`."""
    handles: list[RemovableHandle] = []
    try:
        for block, qk, v, mlp, heads in zip(
            twin.blocks, gates.qk, gates.v, gates.mlp, gates.heads, strict=True
        ):
            rows = sum(block.attn.qkv_rows)
            queries = F.pad(qk.flatten(1), (0, rows - qk[0].numel()), value=1.0)  # B rows: keys, values open
            handles.append(block.attn.qkv.register_forward_hook(_times(queries)))
            handles.append(
                block.attn.proj.register_forward_pre_hook(_into((v * heads[..., None]).flatten(1)))
            )
            handles.append(block.mlp.act.register_forward_hook(_times(mlp)))
        for module in twin.modules():
            if isinstance(module, nn.LayerNorm | nn.RMSNorm):
                handles.append(module.register_forward_hook(_narrowed(gates.embed)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _times(gate: Float[Tensor, "B channels"]) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
    return lambda _, __, output: output * gate[:, None]


def _into(gate: Float[Tensor, "#B channels"]) -> Callable[[nn.Module, tuple[Tensor, ...]], Tensor]:
    return lambda _, inputs: inputs[0] * gate[:, None]


def _narrowed(gate: Float[Tensor, "B E"]) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
    """A norm in which a channel counts as far as its gate is open, mean and variance included [ours]."""

    def hook(norm: Any, inputs: tuple[Tensor, ...], _: Tensor) -> Tensor:
        x = inputs[0]  # B N E, or B E behind pooling
        share = gate[:, None] if x.ndim == 3 else gate
        share, centred = share / share.sum(dim=-1, keepdim=True), isinstance(norm, nn.LayerNorm)
        if centred:
            x = x - (x * share).sum(dim=-1, keepdim=True)
        x = x * ((x.square() * share).sum(dim=-1, keepdim=True) + norm.eps).rsqrt() * norm.weight
        return (x + norm.bias if centred else x) * (gate[:, None] if x.ndim == 3 else gate)

    return hook


def _loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy, summed over the images."""
    return F.cross_entropy(logits, labels, reduction="sum")


def _on_device(model: ViT, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    parameter = next(model.parameters())
    return images.to(parameter), labels.to(parameter.device)


def _require_classes(model: ViT, what: str) -> None:
    if not model.arch.num_classes:
        raise ValueError(
            f"{what} measures the loss of a classifier, and this model has none: load a model with classes, "
            "or choose a method that needs no labels, such as SNP"
        )


def _require_images(count: int, what: str) -> None:
    if count == 0:
        raise ValueError(f"{what} needs calibration images, got none")
