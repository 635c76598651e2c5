"""Merged tokens and absent halves of blocks as parts of a target, and a model with or without merging."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch

from analysis.vit import Architecture, Merge, ViT

Tokens = int | tuple[int, ...]  # merged in every block that can, or in each
Half = tuple[int, int]  # block, and 0 for its attention or 1 for its MLP


def unmerged(arch: Architecture) -> Architecture:
    """The architecture without any merging."""
    return _with(arch, [0] * arch.depth)


def can_merge(arch: Architecture) -> tuple[bool, ...]:
    """For every block, whether it can merge tokens to any use: it needs attention, and someone behind it.

    Behind the attention of the last block nothing reads the patch tokens of a model with pool "token".
    """
    last = arch.depth - 1
    return tuple(
        widths.heads > 0 and (index < last or arch.pool != "token")
        for index, widths in enumerate(arch.blocks)
    )


def with_merges(arch: Architecture, tokens: Tokens) -> Architecture:
    """The architecture in which each block merges so many tokens.

    One number is taken for every block that can merge (`can_merge`), as far as half of its patch tokens go.
    A list is taken as it is.

    Raises:
        ValueError: a list of another length, or one that asks of a block what it cannot do.
    """
    if isinstance(tokens, tuple):
        if len(tokens) != arch.depth:
            raise ValueError(
                f"tokens has {len(tokens)} numbers, but the model has {arch.depth} blocks: "
                f"give one number, or {arch.depth}"
            )
        for index, (count, widths) in enumerate(zip(tokens, arch.blocks, strict=True)):
            if count and not widths.heads:
                raise ValueError(f"block {index} has no attention behind which {count} tokens could merge")
        return _with(arch, tokens)
    wanted = [tokens if able else 0 for able in can_merge(arch)]
    return _with(arch, at_most_half(arch, wanted))


def at_most_half(arch: Architecture, merges: Sequence[int]) -> tuple[int, ...]:
    """The same numbers, but in no block more than half of the patch tokens that are left there."""
    patches, taken = arch.grid[0] * arch.grid[1], []
    for count in merges:
        taken.append(min(count, patches // 2))
        patches -= taken[-1]
    return tuple(taken)


def merges_of(arch: Architecture) -> tuple[int, ...]:
    """How many tokens each block merges."""
    return tuple(widths.merge for widths in arch.blocks)


def with_architecture(model: ViT, arch: Architecture) -> ViT:
    """A model of the same weights, which it shares, whose blocks merge as `arch` says.

    Raises:
        ValueError: `arch` differs in more than what needs no weights (`merge`, `skip_unread`).
    """
    if unmerged(replace(arch, skip_unread=False)) != unmerged(replace(model.arch, skip_unread=False)):
        raise ValueError("only what needs no weights can be changed: merging and skip_unread")
    with torch.device("meta"):
        other = ViT(arch)
    other.load_state_dict(model.state_dict(keep_vars=True), assign=True)
    return other.train(model.training)


def set_merges(model: ViT, merges: tuple[int, ...]) -> None:
    """Let the blocks of a model that the caller owns merge so many tokens each, in place; hooks stay."""
    model.arch = with_merges(model.arch, merges)
    for block, widths in zip(model.blocks, model.arch.blocks, strict=True):
        block.merge = Merge(model.arch, widths.merge) if widths.merge else None
        if block.attn is not None:
            block.attn.reads = bool(widths.merge) and model.arch.class_token


def absent(dense: Architecture, target: Architecture) -> tuple[Half, ...]:
    """The halves of blocks that `dense` has and `target` has not."""
    gone: list[Half] = []
    for index, (before, after) in enumerate(zip(dense.blocks, target.blocks, strict=True)):
        gone += [(index, 0)] if before.heads and not after.heads else []
        gone += [(index, 1)] if before.mlp and not after.mlp else []
    return tuple(gone)


def without_halves(arch: Architecture, gone: Iterable[Half]) -> Architecture:
    """The architecture without these halves of blocks. A block without attention merges no tokens."""
    blocks = list(arch.blocks)
    for index, half in gone:
        none = {"mlp": 0} if half else {"heads": 0, "qk": 0, "v": 0, "merge": 0}
        blocks[index] = replace(blocks[index], **none)
    return replace(arch, blocks=tuple(blocks))


def _with(arch: Architecture, merges: Sequence[int]) -> Architecture:
    pairs = zip(arch.blocks, merges, strict=True)
    return replace(arch, blocks=tuple(replace(widths, merge=count) for widths, count in pairs))
