"""Convert timm's Vision Transformers to `vit.py`; refuse all other models with the reason."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from analysis.models.timm_parts import obstacles, read_architecture, state_of
from analysis.vit import Architecture, ViT

TOLERANCE = 1e-4  # relative to the largest logit; two float32 implementations differ by about 1e-6


class UnsupportedModelError(ValueError):
    """A model with a part that a plain Vision Transformer does not have."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(
            f"{name} is not supported: {reason}; "
            "a plain Vision Transformer such as deit_tiny_patch16_224 works"
        )


def from_timm(timm_model: nn.Module) -> ViT:
    """Convert a timm Vision Transformer and check that both compute the same logits.

    The timm model is left unchanged; the ViT is in evaluation mode with float32 copies of its weights.

    Raises:
        UnsupportedModelError: the model has a part that `ViT` cannot express.
    """
    arch = architecture_of(timm_model)
    with torch.device("meta"):
        model = ViT(arch)
    found = state_of(timm_model, arch)
    state = {name: value.detach().to("cpu", torch.float32).clone() for name, value in found.items()}
    model.load_state_dict(state, assign=True)
    model.eval()
    _verify(model, timm_model)
    return model


def architecture_of(timm_model: nn.Module) -> Architecture:
    """The `Architecture` of a timm Vision Transformer, which may be on the meta device.

    Raises:
        UnsupportedModelError: the model has a part that `ViT` cannot express.
    """
    reason = next(obstacles(timm_model), None)
    if reason is not None:
        raise UnsupportedModelError(_name(timm_model), reason)
    arch = read_architecture(timm_model)
    with torch.device("meta"):
        ours = {name: tuple(value.shape) for name, value in ViT(arch).state_dict().items()}
    theirs = {name: tuple(value.shape) for name, value in state_of(timm_model, arch).items()}
    if ours != theirs:
        unmatched = min(set(ours.items()) ^ set(theirs.items()))[0]
        raise UnsupportedModelError(_name(timm_model), f"its parameter {unmatched} does not fit a plain ViT")
    return arch


def _verify(model: ViT, timm_model: nn.Module) -> None:
    """Compare logits on random images, to catch differences that the checks above do not look for."""
    twin: Any = copy.deepcopy(timm_model).to("cpu", torch.float32).eval()
    shape = (2, model.arch.in_channels, *model.arch.image_size)
    images = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected, got = twin(images), model(images)
    if not bool(expected.isfinite().all()):
        raise UnsupportedModelError(_name(timm_model), "its output is not finite with these weights")
    difference = float((got - expected).abs().max())
    # "not <=" so that NaN fails too
    if not difference <= TOLERANCE * max(1.0, float(expected.abs().max())):
        raise UnsupportedModelError(
            _name(timm_model), f"its logits differ by {difference:.2g} after conversion"
        )


def _name(timm_model: nn.Module) -> str:
    config = getattr(timm_model, "pretrained_cfg", None) or {}
    return str(config.get("architecture") or type(timm_model).__name__)
