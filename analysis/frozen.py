"""Frozen copies of models that share their weights."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn

from analysis.vit import ViT


def frozen_copy(model: ViT) -> ViT:
    """A copy with new modules and the same weight storage, frozen and in evaluation mode.

    Its mode, hooks and gradients do not affect `model`, which may be in use elsewhere at the same time.
    The copy takes no memory for weights, and autograd keeps no activations for their gradients.
    """
    frozen: dict[int, Any] = {
        id(weight): nn.Parameter(weight.detach(), requires_grad=False) for weight in model.parameters()
    }
    return copy.deepcopy(model, frozen).eval()
