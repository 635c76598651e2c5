"""Gates: multiplicative factors on the parts of a model, 1 to leave a part as it is and 0 to silence it.

Everything that silences parts without cutting them uses gates: trying a model without some heads,
masking what a plan would remove, and derivatives of the loss with respect to parts. A part whose gate is
0 affects the output exactly as little as one that was cut.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
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
    """Gates by structure and block (`embed` for the whole network), one row for all images or one per image.

    `qk` multiplies a pair's term q_i k_i^T of the attention scores, `v` a channel of a head's output
    (equivalent to the value neuron, as attention is linear in it), `heads` a head's output, `mlp` a
    neuron's activation. `embed` acts in every norm of the residual stream, the only places that read it (and
    in front of the pooling where there is no final norm): there it also weights the channel in the mean and
    variance, as `v`, `heads` and `mlp` do in a norm inside of attention or MLP. A structure without gates is
    unchanged. Which tokens merge is told by the stream itself, so gates on `embed` leave that as it was.
    """

    qk: tuple[Float[Tensor, "#B H Dqk"], ...] = ()
    v: tuple[Float[Tensor, "#B H Dv"], ...] = ()
    mlp: tuple[Float[Tensor, "#B F"], ...] = ()
    heads: tuple[Float[Tensor, "#B H"], ...] = ()
    embed: tuple[Float[Tensor, "#B E"], ...] = ()

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All gates, structure by structure."""
        return (*self.qk, *self.v, *self.mlp, *self.heads, *self.embed)

    def with_tensors(self, tensors: Iterable[Tensor]) -> Gates:
        """Gates of the same structures with these values, in the order of `self.tensors`."""
        remaining = iter(tensors)
        structures = (self.qk, self.v, self.mlp, self.heads, self.embed)
        return Gates(*(tuple(next(remaining) for _ in gates) for gates in structures))


def open_gates(arch: Architecture, structures: Iterable[str] = STRUCTURES, rows: int = 1) -> Gates:
    """Gates of value 1 on all parts of these structures."""
    shapes: dict[str, Any] = {
        "qk": [(widths.heads, widths.qk) for widths in arch.blocks],
        "v": [(widths.heads, widths.v) for widths in arch.blocks],
        "mlp": [(widths.mlp,) for widths in arch.blocks],
        "heads": [(widths.heads,) for widths in arch.blocks],
        "embed": [(arch.embed_dim,)],
    }
    return Gates(**{name: tuple(torch.ones(rows, *shape) for shape in shapes[name]) for name in structures})


def head_gates(arch: Architecture, factors: Float[Tensor, "#B heads"]) -> Gates:
    """Gates on heads from a matrix with one column per head, the heads of all blocks in order.

    Raises:
        ValueError: the number of columns is not the number of heads of the model.
    """
    counts = [widths.heads for widths in arch.blocks]
    if factors.ndim != 2 or factors.shape[1] != sum(counts):
        raise ValueError(
            f"a head mask of this model must have {sum(counts)} columns, got shape {tuple(factors.shape)}"
        )
    return Gates(heads=factors.split(counts, dim=1))


@contextmanager
def gated(model: ViT, gates: Gates) -> Iterator[None]:
    """Apply these gates to the model inside the `with`.

    The model must not be in use elsewhere at the same time: pass a `frozen_copy` of a shared model.
    """
    with ExitStack() as hooks:
        for handle in _hooks(model, gates):
            hooks.callback(handle.remove)
        yield


def put_gates(model: ViT, gates: Gates) -> None:
    """Apply gates to a model permanently; pass a model that the caller owns, such as a copy."""
    for _ in _hooks(model, gates):
        pass


def without_heads(model: ViT, gone: Iterable[tuple[int, int]]) -> ViT:
    """A model with the same weights in which the output of these heads, (block, head) each, is zero.

    All heads of a block may be removed: its attention then only adds `proj`'s bias.

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
    """Register the hooks for these gates, yielding their handles."""
    weight = next(model.parameters())
    gates = gates.with_tensors(gate.to(weight) for gate in gates.tensors)
    for index, block in enumerate(model.blocks):
        yield from _block_hooks(block, gates, index)
    for gate in gates.embed:
        yield from (norm.register_forward_hook(_gated_norm(gate)) for norm in _stream_norms(model))
        if not model.arch.final_norm:
            yield model.norm.register_forward_hook(_gated_output(gate))


def _stream_norms(model: ViT) -> Iterator[nn.Module]:
    """The norms of the residual stream, without those inside of attention, MLP, merging and pooling."""
    for name, module in model.named_modules():
        inner = name.endswith((".attn.norm", ".mlp.norm", ".q_norm", ".k_norm")) or name == "attn_pool.norm"
        if isinstance(module, nn.LayerNorm | nn.RMSNorm) and not inner and module.weight is not None:
            yield module


def _block_hooks(block: Block, gates: Gates, index: int) -> Iterator[RemovableHandle]:
    if gates.qk and block.attn is not None:
        queries = gates.qk[index].flatten(1)
        rest = sum(block.attn.qkv_rows) - queries.shape[1]  # keys and values are not gated
        yield block.attn.qkv.register_forward_hook(_gated_output(F.pad(queries, (0, rest), value=1.0)))
    if (gates.v or gates.heads) and block.attn is not None:
        channels = (
            gates.v[index] if gates.v else gates.heads[index].new_ones(1, block.attn.heads, block.attn.v_dim)
        )
        if gates.heads:
            channels = channels * gates.heads[index][..., None]
        yield _gated_before(block.attn.norm, block.attn.proj, channels.flatten(1))
    if gates.mlp and block.mlp is not None:
        yield _gated_before(block.mlp.norm, block.mlp.fc2, gates.mlp[index])


def _gated_before(norm: nn.Module, layer: nn.Module, gate: Float[Tensor, "#B channels"]) -> RemovableHandle:
    """Gate what enters a layer, or the norm in front of it if there is one."""
    if isinstance(norm, nn.Identity):
        return layer.register_forward_pre_hook(_gated_input(gate))
    return norm.register_forward_hook(_gated_norm(gate))


def _gated_output(
    gate: Float[Tensor, "#B channels"],
) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
    return lambda _, __, output: output * gate[:, None]


def _gated_input(gate: Float[Tensor, "#B channels"]) -> Callable[[nn.Module, tuple[Tensor, ...]], Tensor]:
    return lambda _, inputs: inputs[0] * gate[:, None]


def _gated_norm(gate: Float[Tensor, "#B E"]) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
    """Recompute a norm with every channel weighted by its gate, in the mean and variance as well [ours]."""

    def hook(norm: Any, inputs: tuple[Tensor, ...], _: Tensor) -> Tensor:
        x = inputs[0]  # B N E, or B E after pooling
        gates = gate[:, None] if x.ndim == 3 else gate
        share, centred = gates / gates.sum(dim=-1, keepdim=True), isinstance(norm, nn.LayerNorm)
        if centred:
            x = x - (x * share).sum(dim=-1, keepdim=True)
        x = x * ((x.square() * share).sum(dim=-1, keepdim=True) + norm.eps).rsqrt() * norm.weight
        return (x + norm.bias if centred else x) * gates

    return hook
