"""Carries out a `Plan`: `cut` builds the smaller model, `mask` only hides what would go."""

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
    """A new, smaller model that keeps what the plan keeps; `model` is not changed.

    Its logits are those of `mask(model, plan)`.

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
    """Axis of a parameter that is read by position: tokens B N E have it last, weights second."""
    return 2 if name.endswith(("_token", "pos_embed")) else 1


def _kept_rows(model: ViT, plan: Plan) -> dict[str, Tensor]:
    """Indices into the first axis of every parameter that loses outputs."""
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
    """Indices into the axis of every parameter that loses inputs."""
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
    """Flat positions of channels given per head, where each dense head has `width` channels."""
    return torch.tensor(
        [head * width + channel for head, kept in zip(heads, channels, strict=True) for channel in kept]
    )


def mask(model: ViT, plan: Plan) -> ViT:
    """A copy of full size in which what the plan drops has no effect: for what-if questions.

    Its gates (`analysis.gates`) are closed on all that goes. A dropped channel of the residual stream
    is left out of every norm, its mean and variance included, which is what the narrower model
    computes: equality with `cut` means equal logits with these norms.

    Raises:
        ValueError: the plan was made for another architecture.
    """
    plan.architecture(model.arch)
    masked = copy.deepcopy(model)
    put_gates(masked, plan_gates(plan, model.arch))
    return masked


def plan_gates(plan: Plan, dense: Architecture) -> Gates:
    """Gates of 0 on all that the plan drops, and of 1 on what it keeps."""
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
