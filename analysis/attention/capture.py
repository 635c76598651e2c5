"""Reads queries, keys, values and attention out of a model as it runs, one block at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from analysis.frozen import frozen_copy
from analysis.vit import Attention, ViT


@dataclass(frozen=True)
class BlockActivations:
    """What one block computed for one batch; attention maps are formed only when asked for."""

    index: int
    q: Float[Tensor, "B H N Dqk"]
    k: Float[Tensor, "B H N Dqk"]
    v: Float[Tensor, "B H N Dv"]
    head_output: Float[Tensor, "B H N Dv"]
    _attn: Attention

    @cached_property
    def attention(self) -> Float[Tensor, "B H N N"]:
        """softmax(scale q k^T); each row (a query token) sums to one."""
        return self._attn.weights(self.q, self.k)


class Record:
    """Runs batches through a model and yields what each block computed; made by `capture`."""

    def __init__(self, model: ViT) -> None:
        self._model = model
        self._logits: Tensor | None = None

    @property
    def logits(self) -> Float[Tensor, "B num_classes"]:
        """Logits of the last batch that ran through to the end.

        Raises:
            ValueError: no batch has been read to its last block yet.
        """
        if self._logits is None:
            raise ValueError("no logits yet: iterate over record(images) to the last block first")
        return self._logits

    def __call__(self, images: Float[Tensor, "B C Y X"]) -> Iterator[BlockActivations]:
        """Yield the activations block by block; the N x N maps of a block go when you let go of them."""
        self._logits = None
        x = self._model.embed(images)
        for index, block in enumerate(self._model.blocks):
            attn = block.attn
            seen: dict[str, Tensor] = {}
            with watch(attn, seen):
                x = block(x)
            q, k, v = attn.split_heads(seen["qkv"])
            output = seen["proj"].unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            yield BlockActivations(index, q, k, v, output, attn)
            del seen, q, k, v, output  # or they would live on beside the next block's
        self._logits = self._model.classify(x)


@contextmanager
def watch(attn: Attention, seen: dict[str, Tensor]) -> Iterator[None]:
    """Inside the `with`, a forward pass leaves in `seen` what comes out of `qkv` and goes into `proj`."""

    def after_qkv(_: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> None:
        seen["qkv"] = output

    def before_proj(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen["proj"] = inputs[0]

    handles: list[RemovableHandle] = []
    try:
        handles.append(attn.qkv.register_forward_hook(after_qkv))
        handles.append(attn.proj.register_forward_pre_hook(before_proj))
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def capture(model: ViT) -> Iterator[Record]:
    """Capture in evaluation mode and without gradients; the model is not touched.

        with capture(model) as record:
            for block in record(images):
                block.index, block.q, block.attention, block.head_output
            record.logits

    Queries, keys and values are read off the fused model, so nothing is switched off for it.
    """
    with torch.no_grad():
        yield Record(frozen_copy(model))
