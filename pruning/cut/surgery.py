"""Apply a `Plan`: `cut` builds the smaller model, `mask` silences the parts that would be removed."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from analysis.gates import Gates, put_gates
from analysis.vit import Architecture, ViT
from pruning.cut.plan import BlockPlan, Indices, Plan


def cut(model: ViT, plan: Plan) -> ViT:
    """Return a new, smaller model with the parts that the plan keeps; `model` is not changed.

    Weights stay of their number format, on their device. Its logits equal those of `mask(model, plan)`.

    Raises:
        ValueError: the plan was made for another architecture.
    """
    small = ViT(plan.architecture(model.arch))
    kept = {}
    left = small.state_dict().keys()
    for name, value in model.state_dict().items():
        if name not in left:  # of half a block that goes altogether
            continue
        part = value
        for axis, indices in _kept(model, plan, name):
            part = part.index_select(axis, indices.to(value.device))
        kept[name] = part.clone()
    small.load_state_dict(kept, assign=True)  # which keeps number formats and devices as they are
    return small.train(model.training)


# Parameters without an axis of the residual stream, by how their names end.
_INSIDE = ("qkv.bias", "fc1.bias", "head.bias", "head_dist.bias", ".rope", ".position_bias")
_INNER_NORMS = (".attn.norm.", ".mlp.norm.", ".q_norm.", ".k_norm.")


def stream_axis(arch: Architecture, name: str) -> int | None:
    """The axis of a parameter along which the channels of the residual stream lie; None if there is none.

    A classifier that reads two vectors side by side (pool "both") has the channels twice on it.
    """
    if name.startswith("attn_pool."):
        return 1 if name == "attn_pool.kv.weight" else None
    if name.endswith(_INSIDE) or any(norm in name for norm in _INNER_NORMS):
        return None
    if name == "head.weight" and arch.pool == "attention":
        return None
    if name.endswith(("_token", "pos_embed")):
        return 2
    return 1 if name.endswith(("qkv.weight", "fc1.weight", "head.weight", "head_dist.weight")) else 0


def _kept(model: ViT, plan: Plan, name: str) -> Iterator[tuple[int, Tensor]]:
    """Every axis of a parameter that a plan may shorten, with the indices that stay."""
    axis, arch = stream_axis(model.arch, name), model.arch
    if axis is not None:
        twice = name == "head.weight" and arch.pool == "both"
        stream = torch.tensor(plan.embed)
        yield axis, torch.cat([stream, arch.embed_dim + stream]) if twice else stream
    if not name.startswith("blocks."):
        return
    index = int(name.split(".")[1])
    block, widths = plan.blocks[index], arch.blocks[index]
    neurons = torch.tensor(block.mlp)
    if ".qkv." in name:
        yield 0, _qkv_rows(model, index, block)
    elif ".fc1." in name:
        yield 0, torch.cat([neurons, widths.mlp + neurons]) if arch.gated else neurons
    elif name.endswith("attn.proj.weight"):
        yield 1, _positions(block.heads, block.v, widths.v)
    elif ".attn.norm." in name:
        yield 0, _positions(block.heads, block.v, widths.v)
    elif name.endswith("fc2.weight"):
        yield 1, neurons
    elif ".mlp.norm." in name:
        yield 0, neurons
    elif name.endswith(".position_bias"):
        yield 0, torch.tensor(block.heads)
    elif name.endswith(".rope"):
        planes = [tuple(channel // 2 for channel in kept[::2]) for kept in block.qk]
        yield 0, _positions(block.heads, planes, widths.qk // 2)


def _qkv_rows(model: ViT, index: int, block: BlockPlan) -> Tensor:
    widths = model.arch.blocks[index]
    pairs = _positions(block.heads, block.qk, widths.qk)
    values = _positions(block.heads, block.v, widths.v)
    keys_start = widths.heads * widths.qk
    return torch.cat([pairs, keys_start + pairs, 2 * keys_start + values])


def _positions(heads: Indices, channels: Sequence[Indices], width: int) -> Tensor:
    """Flat indices of channels that are given per head, where each dense head has `width` channels."""
    return torch.tensor(
        [head * width + channel for head, kept in zip(heads, channels, strict=True) for channel in kept]
    )


def mask(model: ViT, plan: Plan) -> ViT:
    """A full-size copy in which the parts that the plan removes have no effect, for quick estimates.

    The gates (`analysis.gates`) of these parts are 0. A removed channel of the residual stream is left
    out of every norm, including its mean and variance, as in the narrower model, so the logits equal
    those of `cut`.

    Raises:
        ValueError: the plan was made for another architecture.
    """
    plan.architecture(model.arch)
    masked = copy.deepcopy(model)
    put_gates(masked, plan_gates(plan, model.arch))
    return masked


def plan_gates(plan: Plan, dense: Architecture) -> Gates:
    """Gates of value 0 on the parts that the plan removes and 1 on those it keeps."""
    pairs, values, neurons = [], [], []
    for kept, widths in zip(plan.blocks, dense.blocks, strict=True):
        pairs.append(_per_head(kept.heads, kept.qk, (widths.heads, widths.qk)))
        values.append(_per_head(kept.heads, kept.v, (widths.heads, widths.v)))
        neurons.append(_ones_at(kept.mlp, widths.mlp))
    narrower = len(plan.embed) < dense.embed_dim
    embed = (_ones_at(plan.embed, dense.embed_dim),) if narrower else ()
    return Gates(tuple(pairs), tuple(values), tuple(neurons), embed=embed)


def _per_head(heads: Indices, channels: Sequence[Indices], shape: tuple[int, int]) -> Float[Tensor, "1 H D"]:
    keep = torch.zeros(1, *shape)
    for head, kept in zip(heads, channels, strict=True):
        keep[0, head, list(kept)] = 1
    return keep


def _ones_at(kept: Indices, width: int) -> Float[Tensor, "1 width"]:
    keep = torch.zeros(1, width)
    keep[0, list(kept)] = 1
    return keep
