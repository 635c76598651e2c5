"""Apply a `Plan`: `cut` builds the smaller model, `mask` silences the parts that would be removed."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from analysis.gates import Gates, put_gates
from analysis.vit import Architecture, ViT
from pruning.cut.plan import BlockPlan, Indices, Plan


def cut(model: ViT, plan: Plan) -> ViT:
    """Return a new, smaller model with the parts that the plan keeps; `model` is not changed.

    Its logits equal those of `mask(model, plan)`.

    Raises:
        ValueError: the plan was made for another architecture.
    """
    small = ViT(plan.architecture(model.arch))
    rows, columns = _kept_rows(model, plan), _kept_columns(model, plan)
    kept = {}
    for name, value in model.state_dict().items():
        part = value[rows[name].to(value.device)] if name in rows else value
        if name in columns:
            part = part.index_select(_columns_axis(name), columns[name].to(value.device))
        kept[name] = part.clone()
    small.load_state_dict(kept)
    small.to(next(model.parameters()).device)
    return small.train(model.training)


def _columns_axis(name: str) -> int:
    """The input axis of a parameter: the last one of tokens (1 N E), the second of weights."""
    return 2 if name.endswith(("_token", "pos_embed")) else 1


def _kept_rows(model: ViT, plan: Plan) -> dict[str, Tensor]:
    """For every parameter that loses outputs, the kept indices of its first axis."""
    embed = torch.tensor(plan.embed)
    rows = {
        name: embed
        for name, _ in model.named_parameters()
        if name.startswith(("patch_embed.", "norm_pre.", "norm.", "fc_norm."))
    }
    for index, block in enumerate(plan.blocks):
        prefix = f"blocks.{index}"
        for layer in ("norm1", "norm2", "attn.proj", "mlp.fc2"):
            rows[f"{prefix}.{layer}.weight"] = rows[f"{prefix}.{layer}.bias"] = embed
        rows[f"{prefix}.ls1.gamma"] = rows[f"{prefix}.ls2.gamma"] = embed
        mlp = torch.tensor(block.mlp)
        qkv = _qkv_rows(model, index, block)
        rows |= {f"{prefix}.mlp.fc1.{kind}": mlp for kind in ("weight", "bias")}
        rows |= {f"{prefix}.attn.qkv.{kind}": qkv for kind in ("weight", "bias")}
    return rows


def _kept_columns(model: ViT, plan: Plan) -> dict[str, Tensor]:
    """For every parameter that loses inputs, the kept indices of its input axis."""
    embed = torch.tensor(plan.embed)
    names = ("cls_token", "dist_token", "reg_token", "pos_embed", "head.weight", "head_dist.weight")
    columns = dict.fromkeys(names, embed)
    for index, block in enumerate(plan.blocks):
        prefix = f"blocks.{index}"
        columns[f"{prefix}.attn.qkv.weight"] = columns[f"{prefix}.mlp.fc1.weight"] = embed
        columns[f"{prefix}.attn.proj.weight"] = _positions(block.heads, block.v, model.arch.blocks[index].v)
        columns[f"{prefix}.mlp.fc2.weight"] = torch.tensor(block.mlp)
    return columns


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
