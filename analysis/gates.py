"""Gates: a factor on every part of a model, 1 where it works as it is and 0 where it is silent.

This is the one way to silence a part without cutting it: single heads that are tried out, whatever a
plan would drop, and the derivatives of the loss by its gates. A part whose gate is closed has no more
effect than one that was cut away.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from analysis.anatomy import STRUCTURES
from analysis.frozen import frozen_copy
from analysis.vit import Architecture, Block, ViT


@dataclass(frozen=True)
class Gates:
    """Factors by structure and block, `embed` once for all: a row for all images, or one for each of a batch.

    `qk` stands on a pair's term q_i k_i^T of the attention scores, `v` on a channel of a head's
    output (the same as on the value neuron: attention is linear in it), `heads` on a head's
    output, `mlp` on a neuron behind its activation. `embed` stands in every norm, the only places
    where the residual stream is read; there a channel counts for mean and variance, too, as far as
    its gate is open. A structure without gates stays as it is.
    """

    qk: tuple[Float[Tensor, "#B H Dqk"], ...] = ()
    v: tuple[Float[Tensor, "#B H Dv"], ...] = ()
    mlp: tuple[Float[Tensor, "#B F"], ...] = ()
    heads: tuple[Float[Tensor, "#B H"], ...] = ()
    embed: tuple[Float[Tensor, "#B E"], ...] = ()

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All of them, structure by structure."""
        return (*self.qk, *self.v, *self.mlp, *self.heads, *self.embed)

    def with_tensors(self, tensors: Iterable[Tensor]) -> Gates:
        """The same structures with other values, in the order of `tensors`."""
        left = iter(tensors)
        every = (self.qk, self.v, self.mlp, self.heads, self.embed)
        return Gates(*(tuple(next(left) for _ in old) for old in every))


def open_gates(arch: Architecture, structures: Iterable[str] = STRUCTURES, rows: int = 1) -> Gates:
    """Gates of 1 on all parts of these structures."""
    shapes: dict[str, Any] = {
        "qk": [(widths.heads, widths.qk) for widths in arch.blocks],
        "v": [(widths.heads, widths.v) for widths in arch.blocks],
        "mlp": [(widths.mlp,) for widths in arch.blocks],
        "heads": [(widths.heads,) for widths in arch.blocks],
        "embed": [(arch.embed_dim,)],
    }
    return Gates(**{name: tuple(torch.ones(rows, *shape) for shape in shapes[name]) for name in structures})


def head_gates(arch: Architecture, factors: Float[Tensor, "#B heads"]) -> Gates:
    """Gates on heads from one factor for each, the heads of all blocks in a row.

    Raises:
        ValueError: another number of factors than the model has heads.
    """
    counts = [widths.heads for widths in arch.blocks]
    if factors.ndim != 2 or factors.shape[1] != sum(counts):
        raise ValueError(f"a mask of this model has {sum(counts)} factors a row, got {tuple(factors.shape)}")
    return Gates(heads=factors.split(counts, dim=1))


@contextmanager
def gated(model: ViT, gates: Gates) -> Iterator[None]:
    """Inside the `with`, the model computes with these gates.

    Others must not be using it meanwhile: give a `frozen_copy` of a model that is shared.
    """
    arch = model.arch
    with ExitStack() as hooks:
        hooks.callback(setattr, model, "arch", arch)
        for handle in _hooks(model, gates):
            hooks.callback(handle.remove)
        yield


def put_gates(model: ViT, gates: Gates) -> None:
    """Put gates into a model for good: it is to be one's own copy."""
    for _ in _hooks(model, gates):
        pass


def without_heads(model: ViT, gone: Iterable[tuple[int, int]]) -> ViT:
    """A model with the same weights in which these heads, (block, head) each, give nothing.

    All heads of a block may go: its attention then adds `proj`'s bias alone.

    Raises:
        ValueError: the model has no such head.
    """
    gates = open_gates(model.arch, ["heads"])
    for block, head in gone:
        if not (0 <= block < model.arch.depth and 0 <= head < model.arch.blocks[block].heads):
            raise ValueError(f"this model has no head {head} in block {block}")
        gates.heads[block][0, head] = 0
    own = frozen_copy(model)
    put_gates(own, gates)
    return own


def _hooks(model: ViT, gates: Gates) -> Iterator[RemovableHandle]:
    """Register the hooks of these gates one by one."""
    weight = next(model.parameters())
    gates = gates.with_tensors(gate.to(weight) for gate in gates.tensors)
    if gates.qk and model.arch.skip_unread:
        # That shortcut goes round the layer whose outputs are gated. The logits are the same without it.
        model.arch = replace(model.arch, skip_unread=False)
    for index, block in enumerate(model.blocks):
        yield from _block_hooks(block, gates, index)
    norms = [module for module in model.modules() if isinstance(module, nn.LayerNorm | nn.RMSNorm)]
    for gate in gates.embed:
        yield from (norm.register_forward_hook(_narrowed(gate)) for norm in norms)


def _block_hooks(block: Block, gates: Gates, index: int) -> Iterator[RemovableHandle]:
    if gates.qk:
        queries = gates.qk[index].flatten(1)
        rest = sum(block.attn.qkv_rows) - queries.shape[1]  # keys and values: open
        yield block.attn.qkv.register_forward_hook(_times(F.pad(queries, (0, rest), value=1.0)))
    if gates.v or gates.heads:
        channels = (
            gates.v[index] if gates.v else gates.heads[index].new_ones(1, block.attn.heads, block.attn.v_dim)
        )
        if gates.heads:
            channels = channels * gates.heads[index][..., None]
        yield block.attn.proj.register_forward_pre_hook(_into(channels.flatten(1)))
    if gates.mlp:
        yield block.mlp.act.register_forward_hook(_times(gates.mlp[index]))


def _times(gate: Float[Tensor, "#B channels"]) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
    return lambda _, __, output: output * gate[:, None]


def _into(gate: Float[Tensor, "#B channels"]) -> Callable[[nn.Module, tuple[Tensor, ...]], Tensor]:
    return lambda _, inputs: inputs[0] * gate[:, None]


def _narrowed(gate: Float[Tensor, "#B E"]) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
    """A norm in which a channel counts as far as its gate is open, mean and variance included [ours]."""

    def hook(norm: Any, inputs: tuple[Tensor, ...], _: Tensor) -> Tensor:
        x = inputs[0]  # B N E, or B E behind pooling
        own = gate[:, None] if x.ndim == 3 else gate
        share, centred = own / own.sum(dim=-1, keepdim=True), isinstance(norm, nn.LayerNorm)
        if centred:
            x = x - (x * share).sum(dim=-1, keepdim=True)
        x = x * ((x.square() * share).sum(dim=-1, keepdim=True) + norm.eps).rsqrt() * norm.weight
        return (x + norm.bias if centred else x) * own

    return hook
