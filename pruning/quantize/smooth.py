"""Moves outliers of activations into the weights that read them, without changing what a model computes."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from analysis.vit import ViT
from pruning.quantize.layers import Spans

_LEAST = 2.0**-20  # of the greatest in a layer: channels that are all zero have no scale of their own
Factors = Mapping[str, Float[Tensor, " I"]]  # by the name of the layer, one for each input channel


def smoothing_factors(model: ViT, spans: Spans, alpha: float) -> dict[str, Float[Tensor, " I"]]:
    """What each channel that enters `qkv` and `fc1` is to be divided by before it is quantised.

    s_j = max|x_j|^alpha / max|w_j|^(1 - alpha) (SmoothQuant, Xiao et al. 2023, equation 4), rounded to a
    power of two [ours]: dividing and multiplying by one changes no digit of a float.

    Raises:
        ValueError: alpha is not from 0 to 1.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be from 0 to 1, got {alpha}")
    factors = {}
    for name, _, layer in _pairs(model):
        if name in spans:
            peaks = _bounded(spans[name].peak)
            weights = _bounded(layer.weight.detach().abs().amax(dim=0))
            factors[name] = torch.exp2((alpha * peaks.log2() - (1 - alpha) * weights.log2()).round())
    return factors


def smooth(model: ViT, factors: Factors) -> ViT:
    """A copy that divides the outputs of `norm1` and `norm2` by the factors of the layers that read them.

    The norms' weights and biases are divided, the columns of `qkv` and `fc1` multiplied: the logits stay
    the same.
    """
    smoothed = copy.deepcopy(model)
    with torch.no_grad():
        for name, norm, layer in _pairs(smoothed):
            if name in factors:
                for parameter in norm.parameters():
                    parameter.div_(factors[name])
                layer.weight.mul_(factors[name])
    return smoothed


def _pairs(model: ViT) -> Iterator[tuple[str, nn.Module, nn.Linear]]:
    """Each layer that alone reads the output of a norm, with its name and that norm."""
    for index, block in enumerate(model.blocks):
        if block.attn is not None:
            yield f"blocks.{index}.attn.qkv", block.norm1, block.attn.qkv
        if block.mlp is not None:
            yield f"blocks.{index}.mlp.fc1", block.norm2, block.mlp.fc1


def _bounded(values: Tensor) -> Tensor:
    top = values.amax()
    return values.clamp(min=float(top) * _LEAST) if top > 0 else torch.ones_like(values)
