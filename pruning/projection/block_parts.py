"""Parts of blocks in the form projections work on: halves, and weights with their biases and LayerScale."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from analysis.vit import Architecture, Attention, Block, BlockWidths, LayerScale, Mlp, ViT


def working_copy(model: ViT) -> ViT:
    """A copy without hooks, in evaluation mode, and in float32 at least."""
    parameter = next(model.parameters())
    own = ViT(model.arch)
    own.load_state_dict(model.state_dict())
    dtype = parameter.dtype if parameter.dtype == torch.float64 else torch.float32
    return own.to(parameter.device, dtype).eval().requires_grad_(False)


def rows_by_head(attn: Attention) -> tuple[Tensor, Tensor, Tensor]:
    """Weights with their biases as a last column: queries and keys H Dqk E+1, values H Dv E+1."""
    layer = attn.qkv
    bias = layer.bias if layer.bias is not None else layer.weight.new_zeros(layer.out_features)
    rows = torch.cat([layer.weight, bias[:, None]], dim=1).double()
    q, k, v = (part.unflatten(0, (attn.heads, -1)) for part in rows.split(attn.qkv_rows))
    return q, k, v


def set_rows(layer: nn.Linear, queries: Tensor, keys: Tensor, values: Tensor) -> None:
    """Give `qkv` such rows: the way back from `rows_by_head`."""
    rows = torch.cat([part.flatten(0, 1) for part in (queries, keys, values)])
    layer.weight.copy_(rows[:, :-1])
    if layer.bias is not None:  # without one the last column is zero, and stays so under any basis
        layer.bias.copy_(rows[:, -1])


def folded(layer: nn.Linear, behind: nn.Module) -> tuple[Float[Tensor, "E I"], Float[Tensor, " E"]]:
    """Weight and bias of a layer together with the LayerScale behind it."""
    weight, bias = layer.weight.double(), layer.bias.double()
    if isinstance(behind, LayerScale):
        return behind.gamma.double()[:, None] * weight, behind.gamma.double() * bias
    return weight, bias


def set_folded(layer: nn.Linear, behind: nn.Module, weight: Tensor, bias: Tensor) -> None:
    """Set both, and LayerScale to one: dividing by its factors would fail where one is near zero."""
    layer.weight.copy_(weight)
    layer.bias.copy_(bias)
    if isinstance(behind, LayerScale):
        behind.gamma.fill_(1)


def whole_block(block: Block) -> Callable[[Float[Tensor, "B N E"]], Float[Tensor, "B N E"]]:
    """A function from the stream before a block to the stream behind it; no tokens merge."""

    def through(x: Float[Tensor, "B N E"]) -> Float[Tensor, "B N E"]:
        for half in halves(block):
            x = x if half is None else half.through(x)
        return x

    return through


class Walk:
    """Residual streams of a dense model, taken from block to block and never back.

    `known` is what was measured before the block it has come to.
    """

    def __init__(self, dense: ViT, advance: Callable[[Callable[[Tensor], Tensor]], None]) -> None:
        """`advance` takes the streams through a part of the model."""
        self._dense, self._advance, self._reached = dense, advance, 0
        self.known: dict[str, Any] = {}

    def come_to(self, index: int) -> Block:
        """Take the streams to a block.

        Raises:
            ValueError: it lies before the last one.
        """
        if index < self._reached:
            raise ValueError(f"blocks come in rising order, got block {index} after {self._reached}")
        while self._reached < index:
            self._advance(whole_block(self._dense.blocks[self._reached]))
            self._reached, self.known = self._reached + 1, {}
        return self._dense.blocks[index]


def present(model: ViT) -> Iterator[tuple[int, HalfBlock]]:
    """All halves of a model that are there, in order, each with its number: 2 of a block, attention first."""
    for index, block in enumerate(model.blocks):
        for number, half in enumerate(halves(block)):
            if half is not None:
                yield 2 * index + number, half


def without_proj(arch: Architecture, attn: Attention, widths: BlockWidths) -> Attention:
    """An attention like `attn` of these widths that ends before `proj`: B N E -> B N H*Dv.

    Its rows of `qkv` are to be set, and the planes of its queries and keys where these are fewer.
    """
    outputs = Attention(arch, widths).to(attn.qkv.weight)
    outputs.proj = nn.Identity()  # type: ignore[assignment]
    own = outputs.state_dict()
    same = {
        name: value
        for name, value in attn.state_dict().items()
        if name in own and own[name].shape == value.shape
    }
    outputs.load_state_dict(same, strict=False)
    return outputs


@dataclass(frozen=True)
class HalfBlock:
    """Half of a block: what it adds to the residual stream, from a norm to the LayerScale at its end.

    `reader` is the layer that reads the normed stream, `writer` the one whose outputs are added to it.
    """

    norm: nn.Module
    part: Attention | Mlp
    reader: nn.Linear
    writer: nn.Linear
    scale: nn.Module

    def through(self, x: Float[Tensor, "B N E"]) -> Float[Tensor, "B N E"]:
        """The residual stream behind this half, before any tokens merge."""
        added: Tensor = self.scale(output(self.part, self.norm(x)))
        return x + added

    def before_writer(self) -> Callable[[Float[Tensor, "B N E"]], Float[Tensor, "B N I"]]:
        """A function from the stream before this half to the inputs of its writer."""
        shared: dict[int, Any] = {id(weight): weight for weight in self.part.parameters()}
        inner = copy.deepcopy(self.part, {**shared, id(self.writer): nn.Identity()})
        return lambda x: output(inner, self.norm(x))


def output(part: nn.Module, x: Float[Tensor, "B N E"]) -> Float[Tensor, "B N I"]:
    """What an attention or an MLP makes of the normed stream."""
    made: Tensor | tuple[Tensor, Tensor] = part(x)
    return made[0] if isinstance(made, tuple) else made  # attention gives its keys as well


def halves(block: Block) -> tuple[HalfBlock | None, HalfBlock | None]:
    """Attention and MLP of a block; None for a half that is absent."""
    attn, mlp = block.attn, block.mlp
    return (
        None if attn is None else HalfBlock(block.norm1, attn, attn.qkv, attn.proj, block.ls1),
        None if mlp is None else HalfBlock(block.norm2, mlp, mlp.fc1, mlp.fc2, block.ls2),
    )
