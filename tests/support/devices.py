"""Devices made up by formula: what benchmark.py would have written there."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from analysis.vit import Architecture, BlockWidths
from pruning.kit.device import DeviceTable, Timed
from pruning.kit.layout import architecture_id, entries

Price = Callable[[BlockWidths], float]  # milliseconds of a block


MERGING = 0.1  # milliseconds


def price(mlp: float = 1.0) -> Price:
    """A block takes time in proportion to its widths, DeiT-Tiny's 2 ms; neurons `mlp` times as much."""
    base = lambda b: 0.2 * bool(b.heads) + 0.2 * bool(b.mlp)
    return lambda b: base(b) + 0.5 * b.qk / 64 + 0.4 * b.v / 64 + mlp * 0.7 * b.mlp / 768


def with_tokens(block: Price, widths: BlockWidths, share: float) -> float:
    """A block that is given this share of the tokens, and may merge some more."""
    return block(widths) * (0.1 + 0.9 * share) + MERGING * bool(widths.merge)


def model_ms(
    arch: Architecture, block: Price, slower: float = 1.2, rest: float = 3.0, curved: float = 0.004
) -> float:
    """A whole model: its blocks take longer than alone, the wider the more, and there is more than blocks."""
    given = [count - widths.merge / 2 for count, widths in zip(arch.tokens, arch.blocks, strict=False)]
    total = sum(
        with_tokens(block, widths, count / arch.num_tokens)
        for widths, count in zip(arch.blocks, given, strict=True)
    )
    return rest + slower * total * (1 + curved * total)


def made_up(
    dense: Architecture,
    block: Price,
    smaller: Sequence[tuple[str, Architecture]] = (),
    int8: bool = False,
    noise: float = 0.0,
    name: str = "board",
    in_models: Price | None = None,
) -> DeviceTable:
    """The file of a device with this price of a block, 7 times it for a batch of 8, half in int8.

    In whole models a block may have another price, `in_models`.
    """
    dice, found = random.Random(0), []
    for entry in entries(dense, smaller, int8=int8):
        if entry.of is None:
            once = model_ms(entry.arch, in_models or block)
        else:
            share = (entry.tokens or dense.num_tokens) / dense.num_tokens
            once = with_tokens(block, entry.widths[0], share)
        once *= 0.5 if entry.int8 else 1.0
        ms = {
            batch: tuple(once * scale * (1 + noise * dice.random()) for _ in range(8))
            for batch, scale in ((1, 1.0), (8, 7.0))
        }
        fingerprint = architecture_id(entry.arch) if entry.of is None else None
        found.append(Timed(entry.name, entry.int8, entry.widths, ms, fingerprint, entry.of, entry.tokens))
    about = {"processor": "abacus", "system": "none", "runtime": "beads", "provider": "hand"}
    mine = architecture_id(dense)
    return DeviceTable("kit", mine, name, threads=4, rounds=8, entries=tuple(found), **about)
