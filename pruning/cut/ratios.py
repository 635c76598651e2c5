"""Ratios, the fraction of each structure to remove, and published presets of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from analysis.formats import Checked, content, in_file, parse, read_text, typed
from analysis.vit import Architecture
from pruning.cut.plan import QK_WHOLE

PRESETS_FILE = Path(__file__).parents[2] / "assets" / "presets.json"

MOST_ALIGN = 1024  # widths are rounded to multiples of at most this

PerBlock = float | tuple[float, ...]  # one number for all blocks, or one for each


@dataclass(frozen=True)
class Ratios(Checked):
    """Fraction of each structure to remove, from 0 to below 1: one number, or one per block.

    Raises:
        ValueError: a value of another type, or a fraction outside [0, 1).
    """

    qk: PerBlock = 0.0
    v: PerBlock = 0.0
    mlp: PerBlock = 0.0
    heads: PerBlock = 0.0
    embed: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
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
            ValueError: the ratio has one number per block, but for another number of blocks.
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
class _Published(Checked):
    """A preset in its file: fractions to remove per block, and the width they were published for."""

    qk: tuple[float, ...]
    v: tuple[float, ...]
    mlp: tuple[float, ...]
    embed: float
    embed_dim: int

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.preset

    @property
    def preset(self) -> Preset:
        """The same as a `Preset`."""
        return Preset(Ratios(self.qk, self.v, self.mlp, embed=self.embed), len(self.qk), self.embed_dim)


@cache
def presets() -> Mapping[str, Preset]:
    """The published presets by name (SNP, Shim et al. 2024, paper's repository)."""
    return read_presets(PRESETS_FILE)


def read_presets(file: Path) -> dict[str, Preset]:
    """The presets that a file holds, by name.

    Raises:
        ValueError: it cannot be read, or holds something else.
    """
    text = read_text(file)
    try:
        listed = typed(content(parse(text), version=1), dict[str, _Published])
    except ValueError as error:
        raise in_file(file, error) from error
    return {name: published.preset for name, published in listed.items()}


def preset_ratios(name: str, dense: Architecture) -> Ratios:
    """Ratios of a published preset, checked to fit the architecture.

    Raises:
        ValueError: unknown preset, or a model of another shape.
    """
    if name not in presets():
        raise ValueError(f"there is no preset {name!r}; available are {', '.join(presets())}")
    preset = presets()[name]
    if (dense.depth, dense.embed_dim) != (preset.depth, preset.embed_dim):
        raise ValueError(
            f"preset {name} is for {preset.depth} blocks of embedding width {preset.embed_dim}, "
            f"but this model has {dense.depth} of width {dense.embed_dim}"
        )
    return preset.ratios


def shrink(dense: Architecture, ratios: Ratios, align: int = 1) -> Architecture:
    """The architecture after removing the ratios: widths n - round(ratio n), halves rounded up.

    `align` rounds channel widths (not head counts) to its nearest multiple, but to at least `align` and
    at most the dense width. Query-key pairs of a model with rotary positions go by twos.

    Raises:
        ValueError: a ratio removes everything or what has to stay, there is a wrong number of ratios, or
            align is out of range.
    """
    require_align(align)

    def remaining(name: str, width: int, block: int, step: int) -> int:
        if not width:  # of half a block that is absent
            return 0
        fraction = ratios.at(name, block, dense.depth)
        return _remaining(f"{name} of block {block}", width, fraction, step)

    blocks = tuple(
        replace(  # what merges still does
            widths,
            heads=remaining("heads", widths.heads, index, 1),
            qk=remaining("qk", widths.qk, index, math.lcm(align, 2) if dense.rope else align),
            v=remaining("v", widths.v, index, align),
            mlp=remaining("mlp", widths.mlp, index, align),
        )
        for index, widths in enumerate(dense.blocks)
    )
    if dense.qk_norm and any(
        after.qk < before.qk for before, after in zip(dense.blocks, blocks, strict=True)
    ):
        raise ValueError(QK_WHOLE)
    embed = _remaining("embed", dense.embed_dim, ratios.embed, align)
    return replace(dense, embed_dim=embed, blocks=blocks)


def require_align(align: int) -> None:
    """Check what widths are rounded to.

    Raises:
        ValueError: it is out of its range.
    """
    if not 1 <= align <= MOST_ALIGN:
        raise ValueError(
            f"align must be a whole number of at least 1 and at most {MOST_ALIGN:,}, got {align:,}"
        )


def require_narrowed(dense: Architecture, target: Architecture, ratios: Ratios, align: int) -> None:
    """Check that rounding to multiples of `align` has not undone all that was asked of a structure.

    Raises:
        ValueError: a structure that is to be narrowed is as wide as before in every block.
    """
    exact = shrink(dense, ratios)
    for name in ("qk", "v", "mlp", "embed"):
        widths, asked, got = (_widths(arch, name) for arch in (dense, exact, target))
        if asked != widths and got == widths:
            raise ValueError(
                f"rounded to multiples of {align}, nothing of {name} (width {max(widths)}) is removed: use a "
                "lower align or a higher ratio"
            )


def _widths(arch: Architecture, name: str) -> tuple[int, ...]:
    if name == "embed":
        return (arch.embed_dim,)
    return tuple(getattr(block, name) for block in arch.blocks)


def _remaining(structure: str, width: int, fraction: float, align: int) -> int:
    count = width - math.floor(fraction * width + 0.5)
    if count < 1:
        raise ValueError(
            f"removing {fraction:g} leaves nothing of {structure} (width {width}); use a lower ratio"
        )
    rounded = max(align, math.floor(count / align + 0.5) * align)
    return min(width, rounded)


def _require_fraction(name: str, value: float) -> None:
    if not 0 <= value < 1:
        raise ValueError(f"ratio {name} must be at least 0 and below 1 (the fraction to remove), got {value}")
