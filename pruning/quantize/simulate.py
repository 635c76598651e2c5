"""What a model computes in int8, simulated in torch: values are rounded to the numbers that int8 can hold."""

from __future__ import annotations

import copy
from collections.abc import Collection

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from analysis.vit import ViT
from pruning.quantize.layers import Span, Spans, linear_layers

_MOST = 255  # of an unsigned byte: activations
_SIDE = 127  # of a signed byte, symmetric: weights


def activation_grid(span: Span) -> tuple[float, int]:
    """Scale and zero point of a tensor's unsigned bytes, as ONNX Runtime takes them.

    The range is widened to include zero, which is one of the 256 numbers: x = scale (byte - zero point).
    """
    low, high = min(float(span.low.min()), 0.0), max(float(span.high.max()), 0.0)
    scale = (high - low) / _MOST or 1.0
    return scale, round(-low / scale)


def rounded_weight(weight: Float[Tensor, "O I"]) -> Float[Tensor, "O I"]:
    """Weights rounded to signed bytes, each output channel with a scale of its own."""
    scales = weight.abs().amax(dim=1) / _SIDE
    scales = torch.where(scales > 0, scales, torch.ones_like(scales))
    zeros = torch.zeros(len(scales), dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(weight, scales, zeros, 0, -_SIDE, _SIDE)


class Int8Linear(nn.Module):
    """A linear layer whose input and weights are rounded to int8; the product is exact and stays float."""

    def __init__(self, layer: nn.Linear, span: Span) -> None:
        super().__init__()
        self.scale, self.zero = activation_grid(span)
        self.weight = nn.Parameter(rounded_weight(layer.weight.detach()))
        self.bias = layer.bias

    def forward(self, x: Tensor) -> Tensor:
        rounded = torch.fake_quantize_per_tensor_affine(x, self.scale, self.zero, 0, _MOST)
        return F.linear(rounded, self.weight, self.bias)


def simulated(model: ViT, spans: Spans, floating: Collection[str] = ()) -> ViT:
    """A copy that computes its linear layers as int8 would, but for those named in `floating`.

    Layers that have no span, because no image reached them, stay in float too.
    """
    copied = copy.deepcopy(model)
    for name, layer in linear_layers(copied).items():
        if name in spans and name not in floating:
            parent, _, own = name.rpartition(".")
            setattr(copied.get_submodule(parent), own, Int8Linear(layer, spans[name]))
    return copied
