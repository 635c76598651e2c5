"""Weights of layers in the form projections work on: float64, by head, with biases and LayerScale."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from analysis.vit import Architecture, Attention, Block, BlockWidths, LayerScale, ViT


def working_copy(model: ViT) -> ViT:
    """A copy without hooks, in evaluation mode, and in float32 at least."""
    parameter = next(model.parameters())
    copy = ViT(model.arch)
    copy.load_state_dict(model.state_dict())
    dtype = parameter.dtype if parameter.dtype == torch.float64 else torch.float32
    return copy.to(parameter.device, dtype).eval().requires_grad_(False)


def rows_by_head(attn: Attention) -> tuple[Tensor, Tensor, Tensor]:
    """Weights with their biases as a last column: queries and keys H Dqk E+1, values H Dv E+1."""
    layer = attn.qkv
    bias = layer.bias if layer.bias is not None else layer.weight.new_zeros(layer.out_features)
    rows = torch.cat([layer.weight, bias[:, None]], dim=1).double()
    q, k, v = (part.unflatten(0, (attn.heads, -1)) for part in rows.split(attn.qkv_rows))
    return q, k, v


def set_rows(layer: nn.Linear, queries: Tensor, keys: Tensor, values: Tensor) -> None:
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


def through_attention(block: Block, x: Float[Tensor, "B N E"]) -> Float[Tensor, "B N E"]:
    """The residual stream behind the first half of a block."""
    attended: Tensor = block.ls1(block.attn(block.norm1(x)))
    return x + attended


def through_mlp(block: Block, x: Float[Tensor, "B N E"]) -> Float[Tensor, "B N E"]:
    """The residual stream behind the second half of a block."""
    added: Tensor = block.ls2(block.mlp(block.norm2(x)))
    return x + added


def without_proj(arch: Architecture, widths: BlockWidths) -> Attention:
    """An attention of these widths that ends before `proj`: B N E -> B N H*Dv."""
    outputs = Attention(arch, widths)
    outputs.proj = nn.Identity()  # type: ignore[assignment]
    return outputs
