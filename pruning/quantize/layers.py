"""The linear layers of a model, and the range of values that enters each channel of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from analysis.vit import ViT, is_plain_linear

KINDS = ("qkv", "proj", "fc1", "fc2", "head", "head_dist")


@dataclass(frozen=True, eq=False)
class Span:
    """Least and greatest value of each input channel of a layer."""

    low: Float[Tensor, " I"]
    high: Float[Tensor, " I"]

    @property
    def peak(self) -> Float[Tensor, " I"]:
        """Greatest absolute value of each channel."""
        return torch.maximum(self.low.abs(), self.high.abs())

    def over(self, factors: Float[Tensor, " I"]) -> Span:
        """The span after each channel was divided by its positive factor."""
        return Span(self.low / factors, self.high / factors)

    def joined(self, other: Span) -> Span:
        """The span of both together."""
        return Span(torch.minimum(self.low, other.low), torch.maximum(self.high, other.high))


Spans = Mapping[str, Span]  # by the name of the layer


def linear_layers(model: ViT) -> dict[str, nn.Linear]:
    """The layers that can be computed in int8, by name.

    The last block's `qkv` is not one of them where `skip_unread` replaces its product by smaller ones, and
    the layers of an attention pooling never are.
    """
    lean = model.arch.skip_unread and model.arch.absorbs
    split = f"blocks.{model.arch.depth - 1}.attn.qkv" if lean else None
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and is_plain_linear(module)
        and name != split
        and not name.startswith("attn_pool.")
    }


def kind(name: str) -> str:
    """What a layer is, one of `KINDS`."""
    return name.rpartition(".")[2]


def input_spans(model: ViT, images: Iterable[Float[Tensor, "B C Y X"]]) -> dict[str, Span]:
    """The span of the inputs of each linear layer over all images; the model is left as it was found.

    Raises:
        ValueError: no images.
    """
    found: dict[str, Span] = {}

    def see(name: str, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        rows = inputs[0].flatten(0, -2)
        span = Span(rows.amin(dim=0), rows.amax(dim=0))
        found[name] = found[name].joined(span) if name in found else span

    with ExitStack() as hooks, torch.inference_mode():
        for name, layer in linear_layers(model).items():
            hooks.callback(layer.register_forward_pre_hook(partial(see, name)).remove)
        for batch in images:
            model(batch)
    if not found:
        raise ValueError("there are no calibration images")
    return found
