"""Models to try things on: modules of one's own around another model's weights."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn

from analysis.vit import ViT


def frozen_copy(model: ViT) -> ViT:
    """A model of its own modules around the same weights, frozen and in evaluation mode.

    Modes, hooks and gradients stay away from `model`, which others may be running meanwhile;
    frozen weights need no activations kept for their gradients, and no memory of their own.
    """
    frozen: dict[int, Any] = {
        id(weight): nn.Parameter(weight.detach(), requires_grad=False) for weight in model.parameters()
    }
    return copy.deepcopy(model, frozen).eval()
