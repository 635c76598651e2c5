"""Tiny seeded models, random images, and batches of them."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from analysis.vit import Architecture, BlockWidths, ViT

ROOT = Path(__file__).parents[2]

TINY = Architecture(
    image_size=(16, 24),
    patch_size=(8, 8),
    embed_dim=24,
    blocks=(BlockWidths(3, 8, 8, 32), BlockWidths(3, 8, 8, 32)),
    num_classes=10,
    scale=8**-0.5,
)
# Every feature of an architecture at least once, and widths that differ everywhere.
VARIANTS = {
    "plain": TINY,
    "distilled": replace(TINY, distilled=True),
    "layer scale, no prefix in pos_embed": replace(TINY, layer_scale=True, pos_embed_prefix=False),
    "registers": replace(TINY, registers=3, layer_scale=True),
    "average pool": replace(TINY, pool="avg", norm_before_pool=False),
    "no class token": replace(TINY, pool="avg", class_token=False, qkv_bias=False),
    "pre-norm": replace(TINY, pre_norm=True, activation="quick_gelu"),
    "no head": replace(TINY, num_classes=0),
    "rms norms": replace(TINY, norm="rms", distilled=True),
    "uneven": replace(TINY, blocks=(BlockWidths(3, 5, 7, 20), BlockWidths(2, 9, 4, 11))),
}
# What other families have: every field that is off in a plain model is on in one of them.
FAMILIES = {
    "gated": replace(TINY, gated=True, activation="silu", layer_scale=True, registers=1, pool="both"),
    "inner norms": replace(
        TINY, attn_norm=True, mlp_norm=True, patch_norm=True, gated=True, pool="avg", norm_before_pool=False
    ),
    "no final norm": replace(
        TINY,
        final_norm=False,
        norm="rms",
        pool="avg",
        pool_prefix=True,
        blocks=(BlockWidths(2, 7, 5, 9),) * 2,
    ),
    "rotary": replace(
        TINY,
        rope=True,
        registers=2,
        pos_embed_prefix=False,
        layer_scale=True,
        blocks=(BlockWidths(3, 8, 7, 20), BlockWidths(2, 10, 4, 11)),
    ),
    "qk-norm": replace(TINY, qk_norm=True, rope=True, pool="avg", class_token=False, qkv_bias=False),
    "attention pooling": replace(
        TINY, pool="attention", pool_prefix=True, pool_heads=2, pool_width=20, pool_mlp=17
    ),
    "position bias": replace(TINY, position_bias=True, registers=1),
}
PLACED = {  # scores depend on places, and tokens have merged
    "merging, rotary": replace(
        TINY,
        rope=True,
        registers=2,
        blocks=(BlockWidths(3, 8, 8, 32, 2), BlockWidths(3, 6, 8, 32, 1), TINY.blocks[0]),
    ),
    "merging, position bias": replace(
        TINY,
        position_bias=True,
        pool="both",
        blocks=(BlockWidths(3, 8, 8, 32, 2), BlockWidths(2, 8, 8, 32, 1)),
    ),
}
EVERY_PART = replace(
    TINY,
    rope=True,
    qk_norm=True,
    position_bias=True,
    gated=True,
    attn_norm=True,
    mlp_norm=True,
    patch_norm=True,
    pool="attention",
    pool_heads=2,
    pool_width=20,
    pool_mlp=17,
)
# Blocks that merge tokens, and blocks of which a half is absent.
_MERGING = BlockWidths(3, 8, 8, 32, 2)
SHORTER = {
    "merging": replace(TINY, blocks=(_MERGING, BlockWidths(3, 8, 6, 32, 1))),
    "merging, distilled": replace(
        TINY,
        distilled=True,
        image_size=(24, 24),
        blocks=(BlockWidths(3, 8, 8, 32, 4), BlockWidths(2, 5, 7, 9, 2)),
    ),
    "merging, registers": replace(TINY, registers=3, layer_scale=True, blocks=(_MERGING, TINY.blocks[0])),
    "merging, average pool": replace(TINY, pool="avg", norm_before_pool=False, blocks=(_MERGING, _MERGING)),
    "merging, no class token": replace(
        TINY, pool="avg", class_token=False, qkv_bias=False, blocks=(_MERGING, replace(_MERGING, merge=1))
    ),
    "merging, no head": replace(TINY, num_classes=0, blocks=(_MERGING, _MERGING)),
    "without halves": replace(
        TINY,
        blocks=(
            BlockWidths(0, 0, 0, 32),
            BlockWidths(3, 8, 8, 0, 2),
            BlockWidths(3, 8, 8, 32),
            BlockWidths(0, 0, 0, 0),
        ),
    ),
}
# A block of each kind: with one half, with the other, with both and merging, with none, and a lean last one.
SHORT = replace(
    TINY,
    image_size=(24, 24),
    distilled=True,
    registers=1,
    skip_unread=True,
    blocks=(
        BlockWidths(0, 0, 0, 32),
        BlockWidths(3, 8, 8, 0, 3),
        BlockWidths(3, 5, 7, 20, 2),
        BlockWidths(0, 0, 0, 0),
        BlockWidths(2, 9, 4, 11),
    ),
)


def on_variants(*names: str) -> pytest.MarkDecorator:
    """For a test that takes `variant`: these alone, where the others would prove the same again."""
    return pytest.mark.parametrize("variant", [VARIANTS[name] for name in names], ids=names, indirect=True)


def random_vit(arch: Architecture, seed: int = 0) -> ViT:
    """A model in which every parameter matters: none is zero or one by initialisation."""
    generator = torch.Generator().manual_seed(seed)
    model = ViT(arch).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator) * 0.3
            gain = "norm" in name and name.endswith("weight")
            parameter.copy_(1 + noise if gain or "gamma" in name else noise)
        for angles in model.buffers():
            angles.copy_(torch.randn(angles.shape, generator=generator))
    return model


def scaled_heads(model: ViT, factors: Mapping[tuple[int, int], float]) -> ViT:
    """Twin of gates on heads, (block, head) each: the columns of `proj` that read them, multiplied."""
    changed = copy.deepcopy(model)
    with torch.no_grad():
        for (block, head), factor in factors.items():
            width = model.arch.blocks[block].v
            changed.blocks[block].attn.proj.weight[:, head * width : (head + 1) * width] *= factor
    return changed


def random_images(arch: Architecture, count: int = 4, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, arch.in_channels, *arch.image_size, generator=generator)


def batches(images: torch.Tensor, size: int = 4) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Images in batches, with labels that go round the classes 0 to 9."""
    labels = torch.arange(len(images)) % 10
    return list(zip(images.split(size), labels.split(size), strict=True))


def random_masks(count: int, size: tuple[int, int], seed: int = 3) -> Tensor:
    """Objects of random places and sizes: rectangles, so that some patches are covered in part."""
    generator = torch.Generator().manual_seed(seed)
    masks = torch.zeros(count, *size, dtype=torch.bool)
    for mask in masks:
        top, left = (int(torch.randint(0, side // 2, (), generator=generator)) for side in size)
        mask[top : top + size[0] // 2 + 1, left : left + size[1] // 2 + 3] = True
    return masks


def turned(model: ViT, seed: int = 0) -> ViT:
    """The same function in other coordinates: an orthogonal turn of each head's value channels and `proj`.

    Query-key channels are turned as well, queries and keys alike, which leaves all scores as they are.
    """
    own = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)

    def turn(width: int) -> torch.Tensor:
        return torch.linalg.qr(torch.randn(width, width, generator=generator, dtype=torch.float64)).Q

    with torch.no_grad():
        for block in own.blocks:
            attn = block.attn
            q, k, _ = attn.qkv_rows
            for head in range(attn.heads):
                for first, width, starts in (
                    (head * attn.qk_dim, attn.qk_dim, (0, q)),
                    (head * attn.v_dim, attn.v_dim, (q + k,)),
                ):
                    matrix = turn(width)
                    for start in starts:
                        rows = slice(start + first, start + first + width)
                        for parameter in (attn.qkv.weight, attn.qkv.bias):
                            if parameter is not None:
                                parameter[rows] = (matrix @ parameter[rows].double()).to(parameter)
                columns = slice(first, first + width)
                attn.proj.weight[:, columns] = (attn.proj.weight[:, columns].double() @ matrix.T).to(
                    attn.proj.weight
                )
    return own


def dinov3_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of one of timm's DINOv3 with biases, named as in Meta's own files."""
    own = {}
    for name, value in state.items():
        if name.endswith("attn.q_bias"):  # that of the keys makes no difference
            qkv, q, v = (name.replace("q_bias", end) for end in ("qkv.bias", "q_bias", "v_bias"))
            own[qkv] = torch.cat([state[q], state[q], state[v]])
            own[f"{qkv}_mask"] = torch.ones_like(own[qkv])
        elif not name.endswith("attn.v_bias"):
            theirs = re.sub(r"gamma_([12])$", r"ls\1.gamma", name)
            own[theirs.replace("reg_token", "storage_tokens")] = value
    tokens = own["cls_token"]
    return own | {"rope_embed.periods": torch.ones(16), "mask_token": torch.zeros_like(tokens[0])}
