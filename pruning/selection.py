"""From ratios to widths, and from scores and widths to a `Plan`."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from analysis.vit import Architecture, BlockWidths
from pruning.head_locks import HeadLocks
from pruning.plan import BlockPlan, Indices, Plan

PRESETS_FILE = Path(__file__).parent.parent / "assets" / "presets.json"

PerBlock = float | tuple[float, ...]  # one number for all blocks, or one for each


@dataclass(frozen=True)
class Ratios:
    """Fractions removed of each structure, from 0 to below 1: one number, or one per block.

    Raises:
        ValueError: a fraction outside [0, 1).
    """

    qk: PerBlock = 0.0
    v: PerBlock = 0.0
    mlp: PerBlock = 0.0
    heads: PerBlock = 0.0
    embed: float = 0.0

    def __post_init__(self) -> None:
        for name in ("qk", "v", "mlp", "heads"):
            value = getattr(self, name)
            for fraction in value if isinstance(value, tuple) else (value,):
                _require_fraction(name, fraction)
            if value == ():
                raise ValueError(f"ratio {name} needs one number, or one per block, got none")
        _require_fraction("embed", self.embed)

    @property
    def removes_nothing(self) -> bool:
        """Whether every fraction is zero."""
        values = (self.qk, self.v, self.mlp, self.heads, self.embed)
        return not any(any(value) if isinstance(value, tuple) else value for value in values)

    def at(self, name: str, block: int, depth: int) -> float:
        """Fraction removed of structure `name` in one of `depth` blocks.

        Raises:
            ValueError: one number per block was given, but not for so many blocks.
        """
        value: PerBlock = getattr(self, name)
        if not isinstance(value, tuple):
            return value
        if len(value) != depth:
            raise ValueError(
                f"ratio {name} has {len(value)} numbers, but the model has {depth} blocks: "
                f"give one number, or {depth}"
            )
        return value[block]


@dataclass(frozen=True)
class Preset:
    """Published ratios, and the shape of the model they were published for."""

    ratios: Ratios
    depth: int
    embed_dim: int


@dataclass(frozen=True)
class Scores:
    """Importance of every part of a model, per block; what scores low goes first."""

    qk: tuple[Float[Tensor, "H Dqk"], ...]
    v: tuple[Float[Tensor, "H Dv"], ...]
    mlp: tuple[Float[Tensor, " F"], ...]
    heads: tuple[Float[Tensor, " H"], ...]
    embed: Float[Tensor, " E"]


def heads_only(arch: Architecture, heads: Sequence[Float[Tensor, " H"]]) -> Scores:
    """Scores that rank heads and nothing else."""
    return Scores(
        qk=tuple(torch.zeros(widths.heads, widths.qk) for widths in arch.blocks),
        v=tuple(torch.zeros(widths.heads, widths.v) for widths in arch.blocks),
        mlp=tuple(torch.zeros(widths.mlp) for widths in arch.blocks),
        heads=tuple(heads),
        embed=torch.zeros(arch.embed_dim),
    )


@cache
def presets() -> Mapping[str, Preset]:
    """The published presets by name (SNP, Shim et al. 2024, paper's repository)."""
    listed = json.loads(PRESETS_FILE.read_text(encoding="utf-8"))
    return {name: _preset(entry) for name, entry in listed.items()}


def _preset(entry: dict[str, list[float] | float | int]) -> Preset:
    per_block = {name: tuple(entry[name]) for name in ("qk", "v", "mlp")}  # type: ignore[arg-type]
    ratios = Ratios(**per_block, embed=float(entry["embed"]))  # type: ignore[arg-type]
    return Preset(ratios, depth=len(per_block["qk"]), embed_dim=int(entry["embed_dim"]))  # type: ignore[arg-type]


def preset_ratios(name: str, dense: Architecture) -> Ratios:
    """Ratios of a published preset, for the architecture it was published for.

    Raises:
        ValueError: unknown preset, or a model of another shape.
    """
    if name not in presets():
        raise ValueError(f"there is no preset {name!r}; there are {', '.join(presets())}")
    preset = presets()[name]
    if (dense.depth, dense.embed_dim) != (preset.depth, preset.embed_dim):
        raise ValueError(
            f"preset {name} is for {preset.depth} blocks of embedding width {preset.embed_dim}, "
            f"this model has {dense.depth} of width {dense.embed_dim}"
        )
    return preset.ratios


def shrink(dense: Architecture, ratios: Ratios, align: int = 1) -> Architecture:
    """Widths left after removing the ratios: n - round(ratio n), halves rounded up.

    `align` rounds channel widths (not head counts) to the nearest multiple of it, at least it
    and at most the dense width.

    Raises:
        ValueError: a ratio that leaves nothing, or a wrong number of ratios.
    """
    if align < 1:
        raise ValueError(f"align must be a whole number of at least 1, got {align}")

    def kept(name: str, width: int, block: int, step: int) -> int:
        fraction = ratios.at(name, block, dense.depth)
        return _kept(f"{name} of block {block}", width, fraction, step)

    blocks = tuple(
        BlockWidths(
            heads=kept("heads", widths.heads, index, 1),
            qk=kept("qk", widths.qk, index, align),
            v=kept("v", widths.v, index, align),
            mlp=kept("mlp", widths.mlp, index, align),
        )
        for index, widths in enumerate(dense.blocks)
    )
    embed = _kept("embed", dense.embed_dim, ratios.embed, align)
    return replace(dense, embed_dim=embed, blocks=blocks)


def select(scores: Scores, dense: Architecture, target: Architecture, locks: HeadLocks = HeadLocks()) -> Plan:
    """Keep the highest scores, as many as `target` has room for.

    Heads go first, those that the locks name whatever their score; then pairs and value neurons
    inside each head that stays. Of equal scores the lower index stays, so the same scores always
    give the same plan.

    Raises:
        ValueError: scores that are not finite, or a target wider than the dense model.
    """
    ranked, blocks = locks.order(scores.heads) if locks else scores.heads, []
    for index, (before, after) in enumerate(zip(dense.blocks, target.blocks, strict=True)):
        heads = _top(ranked[index], after.heads, before.heads)
        blocks.append(
            BlockPlan(
                heads=heads,
                qk=tuple(_top(scores.qk[index][head], after.qk, before.qk) for head in heads),
                v=tuple(_top(scores.v[index][head], after.v, before.v) for head in heads),
                mlp=_top(scores.mlp[index], after.mlp, before.mlp),
            )
        )
    return Plan(_top(scores.embed, target.embed_dim, dense.embed_dim), tuple(blocks))


def _top(scores: Tensor, count: int, width: int) -> Indices:
    if scores.shape != (width,):
        raise ValueError(f"expected {width} scores, got {tuple(scores.shape)}")
    if count > width:
        raise ValueError(f"cannot keep {count} of {width}")
    if not bool(scores.isfinite().all()):
        raise ValueError("scores must be finite; check the model's weights for NaN")
    order = scores.argsort(descending=True, stable=True)
    return tuple(sorted(order[:count].tolist()))


def _kept(what: str, width: int, fraction: float, align: int) -> int:
    left = width - math.floor(fraction * width + 0.5)
    if left < 1:
        raise ValueError(f"removing {fraction:g} leaves nothing of {what} (width {width}); use a lower ratio")
    rounded = max(align, math.floor(left / align + 0.5) * align)
    return min(width, rounded)


def _require_fraction(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
        raise ValueError(f"ratio {name} must be at least 0 and below 1 (a fraction removed), got {value}")
