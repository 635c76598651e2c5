"""Capture the queries, keys, values and attention of a model during a forward pass, block by block."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from analysis.attention.tokens import Members, merged, of_its_token, over_patches
from analysis.frozen import frozen_copy
from analysis.vit import Block, LayerScale, Placed, ViT, sizes_and_places


@dataclass(frozen=True)
class BlockActivations:
    """The activations of one block for one batch; attention maps are computed on first access.

    `sizes` are the numbers of patches that the block's tokens stand for, None before any have merged;
    `members` says which patches these are, `left` the same of the tokens that leave the block. `places` are
    the tokens of the image whose places they have, where scores depend on places and some have merged.
    A block without attention has 0 heads.
    """

    index: int
    q: Float[Tensor, "B H N Dqk"]
    k: Float[Tensor, "B H N Dqk"]
    v: Float[Tensor, "B H N Dv"]
    head_output: Float[Tensor, "B H N Dv"]
    sizes: Float[Tensor, "B N"] | None
    members: Members | None
    left: Members | None
    _block: Block
    places: Int[Tensor, "B N"] | None = None

    @cached_property
    def attention(self) -> Float[Tensor, "B H N N"]:
        """softmax(scale q k^T + bias + log sizes); each row (a query token) sums to one."""
        if self._block.attn is None:
            return self.q @ self.k.mT
        return self._block.attn.weights(self.q, self.k, self.sizes, self.places)

    @cached_property
    def patch_attention(self) -> Float[Tensor, "B H N0 N0"]:
        """`attention` between the tokens that entered the first block, whatever has merged since."""
        return over_patches(self.attention, self.members)

    @property
    def patch_output(self) -> Float[Tensor, "B H N0 Dv"]:
        """`head_output` of the tokens that entered the first block: merged ones share that of their token."""
        return of_its_token(self.head_output, self.members, axis=-2)

    @cached_property
    def writes(self) -> Float[Tensor, "H E Dv"]:
        """Each head's columns of `proj`, times LayerScale: `head_output @ writes.mT` is what a head adds.

        Turning a head's value channels by an orthogonal matrix turns its output and these columns, and
        leaves the product as it is.
        """
        attn = self._block.attn
        if attn is None:
            return self.v.new_zeros(0, 0, 0)
        weight, scale = attn.proj.weight, self._block.ls1
        scaled = weight * scale.gamma[:, None] if isinstance(scale, LayerScale) else weight
        return scaled.unflatten(1, (attn.heads, -1)).transpose(0, 1)


class Record:
    """Runs batches through a model and yields the activations of each block; created by `capture`."""

    def __init__(self, model: ViT) -> None:
        self._model = model
        self._logits: Tensor | None = None

    @property
    def logits(self) -> Float[Tensor, "B num_classes"]:
        """Logits of the last batch whose blocks were all iterated over.

        Raises:
            ValueError: no batch has been iterated over to its last block yet.
        """
        if self._logits is None:
            raise ValueError("no logits yet: iterate over record(images) to the last block first")
        return self._logits

    def __call__(self, images: Float[Tensor, "B C Y X"]) -> Iterator[BlockActivations]:
        """Yield the activations block by block; nothing here keeps a block's N x N maps alive."""
        self._logits = None
        x = self._model.embed(images)
        sizes: Tensor | Placed | None = None
        members: Members | None = None
        for index, block in enumerate(self._model.blocks):
            (before, places), captured = sizes_and_places(sizes), Captured(x[..., :0], x[..., :0])
            with watch(block, captured):
                x, sizes = block(x, sizes)
            q, k, v, output = _by_head(block, captured, places)
            left = merged(block.merge, captured.merging, members)
            yield BlockActivations(index, q, k, v, output, before, members, left, block, places)
            members = left
            del captured, q, k, v, output  # free them before the next block runs
        self._logits = self._model.classify(x, sizes)


@dataclass
class Captured:
    """What `watch` stores of one block: the output of `qkv`, the input of `proj`, and that of its merging.

    Where a norm stands in front of `proj`, its input is taken. `qkv` and `proj` are without channels where
    the block has no attention; `merging` holds tokens, their sizes and how much each is read, and is None
    where the block merges nothing.
    """

    qkv: Tensor
    proj: Tensor
    merging: tuple[Tensor, Tensor | Placed | None, Tensor | None] | None = None


def _by_head(
    block: Block, captured: Captured, places: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Queries, keys, values and the heads' outputs, from what was captured."""
    if block.attn is None:
        none = captured.qkv[:, None, :, :][:, :0]  # B 0 N 0
        return none, none, none, none
    q, k, v = block.attn.split_heads(captured.qkv, places)
    return q, k, v, captured.proj.unflatten(-1, (block.attn.heads, -1)).transpose(1, 2)


@contextmanager
def watch(block: Block, captured: Captured) -> Iterator[None]:
    """Inside the `with`, forward passes of a block store in `captured` what goes on inside."""

    def after_qkv(_: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> None:
        captured.qkv = output

    def before_proj(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        captured.proj = inputs[0]

    def before_merge(_: nn.Module, inputs: tuple[Tensor, Tensor | Placed | None, Tensor | None]) -> None:
        captured.merging = inputs

    handles: list[RemovableHandle] = []
    try:
        if block.attn is not None:
            handles.append(block.attn.qkv.register_forward_hook(after_qkv))
            handles.append(block.attn.norm.register_forward_pre_hook(before_proj))
        if block.merge is not None:
            handles.append(block.merge.register_forward_pre_hook(before_merge))
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def capture(model: ViT) -> Iterator[Record]:
    """Capture activations in evaluation mode and without gradients; the model is left unchanged.

        with capture(model) as record:
            for block in record(images):
                block.index, block.q, block.attention, block.head_output
            record.logits

    Queries, keys and values are captured around the fused attention kernel, which stays on.
    """
    with torch.no_grad():
        yield Record(frozen_copy(model))
