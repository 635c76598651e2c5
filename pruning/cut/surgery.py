"""Carries out a `Plan`: `cut` builds the smaller model, `mask` only hides what would go."""

from __future__ import annotations

import copy
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from analysis.vit import ViT
from pruning.cut.plan import BlockPlan, Plan


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


def _positions(heads: tuple[int, ...], channels: tuple[tuple[int, ...], ...], width: int) -> Tensor:
    """Flat positions of channels given per head, where each dense head has `width` channels."""
    return torch.tensor(
        [head * width + channel for head, kept in zip(heads, channels, strict=True) for channel in kept]
    )


def mask(model: ViT, plan: Plan) -> ViT:
    """A copy of full size in which what the plan drops has no effect: for what-if questions.

    Query, key, value and MLP activations that would go are set to zero as they appear. A
    dropped channel of the residual stream is left out of every norm, its mean and variance
    included, which is what the narrower model computes: equality with `cut` means
    equal logits with these norms.

    Raises:
        ValueError: the plan was made for another architecture.
    """
    plan.architecture(model.arch)
    masked = copy.deepcopy(model)
    device = next(model.parameters()).device
    for block, kept, widths in zip(masked.blocks, plan.blocks, model.arch.blocks, strict=True):
        pairs = _per_head(kept.heads, kept.qk, widths.heads, widths.qk)
        values = _per_head(kept.heads, kept.v, widths.heads, widths.v)
        block.attn.qkv = _Masked(block.attn.qkv, torch.cat([pairs, pairs, values]))  # type: ignore[assignment]
        neurons = torch.zeros(widths.mlp)
        neurons[list(kept.mlp)] = 1
        block.mlp.act = _Masked(block.mlp.act, neurons)
    if len(plan.embed) < model.arch.embed_dim:
        _narrow_norms(masked, torch.tensor(plan.embed))
    return masked.to(device)


class _Masked(nn.Module):
    """A layer whose output channels are multiplied by a mask of zeros and ones."""

    keep: Tensor

    def __init__(self, layer: nn.Module, keep: Tensor) -> None:
        super().__init__()
        self.layer = layer
        self.register_buffer("keep", keep)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) * self.keep


class _NarrowNorm(nn.Module):
    """A norm over the kept channels alone; the others come out as zero."""

    kept: Tensor

    def __init__(self, norm: nn.LayerNorm | nn.RMSNorm, kept: Tensor) -> None:
        super().__init__()
        self.weight, self.eps = norm.weight, cast(float, norm.eps)  # torch's RMSNorm may have none, ours has
        self.bias = norm.bias if isinstance(norm, nn.LayerNorm) else None
        self.register_buffer("kept", kept)

    def forward(self, x: Tensor) -> Tensor:
        kept = self.kept
        if self.bias is None:
            inner = F.rms_norm(x[..., kept], (len(kept),), self.weight[kept], self.eps)
        else:
            inner = F.layer_norm(x[..., kept], (len(kept),), self.weight[kept], self.bias[kept], self.eps)
        return torch.zeros_like(x).index_copy(-1, kept, inner)


def _narrow_norms(model: ViT, kept: Tensor) -> None:
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.LayerNorm | nn.RMSNorm):
                setattr(parent, name, _NarrowNorm(child, kept))


def _per_head(
    heads: tuple[int, ...], channels: tuple[tuple[int, ...], ...], count: int, width: int
) -> Tensor:
    keep = torch.zeros(count, width)
    for head, kept in zip(heads, channels, strict=True):
        keep[head, list(kept)] = 1
    return keep.flatten()
