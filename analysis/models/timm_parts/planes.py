"""Rotary positions in the form of `vit.py`: the order of channels, and the angles of DINOv3."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from analysis.vit import Architecture, BlockWidths


def in_planes(rows: Tensor, widths: BlockWidths) -> Tensor:
    """Rows of `qkv` with the two channels of a plane side by side, where they were half a head apart."""
    pairs = widths.heads * widths.qk
    order = torch.arange(pairs).view(-1, 2, widths.qk // 2).transpose(1, 2).flatten().to(rows.device)
    return torch.cat([rows[:pairs][order], rows[pairs : 2 * pairs][order], rows[2 * pairs :]])


def in_planes_of_head(channels: Tensor) -> Tensor:
    """The same of what belongs to the channels of one head, such as the weight of a norm."""
    return channels.view(2, -1).T.flatten()


def dinov3_angles(arch: Architecture, theta: float) -> Float[Tensor, "HP 3"]:
    """Angles of DINOv3's planes (Simeoni et al. 2025): of the first patch, by row and by column.

    Centres of patches run from -1 to 1 along each side, and are multiplied by 2 pi theta^(-i / P), the first
    half of the planes by rows and the second by columns.
    """
    widths = arch.blocks[0]
    quarter = widths.qk // 4
    frequencies = 2 * torch.pi * theta ** (-torch.arange(quarter, dtype=torch.float64) / quarter)
    none = torch.zeros(quarter, dtype=torch.float64)
    starts, steps = [], []
    for side in arch.grid:
        starts.append((1 / side - 1) * frequencies)
        steps.append(2 / side * frequencies)
    planes = torch.stack(
        [torch.cat(starts), torch.cat([steps[0], none]), torch.cat([none, steps[1]])], dim=-1
    )
    return planes.repeat(widths.heads, 1).float()
