"""Sensitivities made by formula, and DeiT-Tiny's architecture, for tests of budgets."""

from __future__ import annotations

import itertools

from analysis.vit import Architecture, BlockWidths
from pruning.budget.curves import BUDGETED_STRUCTURES, BlockCurves, Curve, Sensitivities
from pruning.budget.sensitivity import measured_widths

DEIT_TINY = Architecture(
    image_size=(224, 224),
    patch_size=(16, 16),
    embed_dim=192,
    blocks=(BlockWidths(3, 64, 64, 768),) * 12,
    num_classes=1000,
    scale=64**-0.5,
)


def synthetic(arch: Architecture, power: float = 2.0) -> Sensitivities:
    """Curves factor x (share removed)^power, another factor for every structure of every block."""
    factors = itertools.cycle((1.0, 0.03, 0.4, 0.002, 3.0, 0.1, 0.7))

    def curve(width: int) -> Curve:
        factor, widths = next(factors), measured_widths(width)
        return Curve(widths, tuple(factor * (1 - kept / width) ** power for kept in widths))

    return Sensitivities(
        tuple(BlockCurves(*(curve(getattr(b, name)) for name in BUDGETED_STRUCTURES)) for b in arch.blocks),
        64,
    )
