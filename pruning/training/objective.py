"""What a training minimises: an `Objective`, and the loss that most of them begin with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch.nn.functional as F
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from analysis.outputs import CLASSIFY, task_of
from analysis.vit import ViT
from pruning.seeding import State


class Objective:
    """What a training minimises, with whatever state that needs; here the cross-entropy.

    A subclass may override any method. In `loss` the model is what to call: in several processes
    it wraps the ViT, and only calling it shares the gradients; `bare` is the ViT inside.
    """

    def identity(self) -> object:
        """What tells this objective from others, as values with a `repr`: checkpoints belong to one."""
        return type(self).__qualname__

    def loss(
        self, model: nn.Module, images: Float[Tensor, "B C Y X"], targets: Shaped[Tensor, "B *classes"]
    ) -> tuple[Tensor, Mapping[str, float | Tensor]]:
        """The loss of one step, a mean over images, and figures to report with it.

        Targets are labels, B whole numbers, or B x classes soft labels after mixup or smoothing.
        """
        return cross_entropy(model(images), targets), {}

    @property
    def score_name(self) -> str:
        """What `score` measures, as the name of a curve."""
        return "top1"

    def score(self, model: ViT, images: Float[Tensor, "B C Y X"], labels: Int[Tensor, " B"]) -> Tensor:
        """How well the model does on test images: B numbers, here 1 where its class is right and else 0."""
        return (model(images).argmax(dim=-1) == labels).float()

    def require_model(self, model: ViT) -> None:
        """Refuse a model that cannot learn this.

        Raises:
            ValueError: it has no classes.
        """
        if task_of(model) != CLASSIFY:
            raise ValueError(
                "a model without a classifier cannot be trained to classify: load one with classes"
            )

    def after_step(self, model: ViT, step: int) -> None:
        """After the optimiser's step number `step`, counted from 0 over all epochs."""

    def after_epoch(self, model: ViT, epoch: int) -> Mapping[str, float]:
        """After epoch number `epoch`, counted from 0; returns figures to report.

        `model` is what a training that ended now would return: the average over steps, if that is on.
        """
        return {}

    def state_dict(self) -> State:
        """What a checkpoint must hold: tensors, numbers, strings and lists, tuples, dicts of them."""
        return {}

    def load_state_dict(self, state: State) -> None:
        """Take up the state of a checkpoint; its tensors are in main memory."""


def cross_entropy(
    logits: Float[Tensor, "B classes"], targets: Shaped[Tensor, "B *classes"]
) -> Float[Tensor, ""]:
    """Mean cross-entropy against labels or soft labels."""
    from timm.loss import SoftTargetCrossEntropy

    if targets.ndim == 1:
        return F.cross_entropy(logits, targets)
    return SoftTargetCrossEntropy()(logits, targets)


def bare(model: nn.Module) -> ViT:
    """The ViT inside whatever wraps it."""
    wrapped = isinstance(model, nn.parallel.DistributedDataParallel)
    return cast(ViT, model.module if wrapped else model)
