"""Attention rollout: how much each input token contributes to each output token through attention."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from jaxtyping import Float
from torch import Tensor

FUSIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda maps: maps.mean(dim=1),
    "max": lambda maps: maps.amax(dim=1),
    "min": lambda maps: maps.amin(dim=1),
}


def rollout(
    maps: Iterable[Float[Tensor, "B H N N"]],
    *,
    fuse: str = "mean",
    discard: float = 0.0,
    prefix: int = 1,
) -> Float[Tensor, "B N N"]:
    """Attention rollout (Abnar & Zuidema 2020): the product over blocks of rownorm(fuse_h(A) + I).

    Row i of the result holds the contribution of each input token to output token i; rows sum to one.
    `maps` are the blocks' attention maps, first block first, and may be a generator: only the
    running product is kept. `fuse` combines the heads. `discard` sets that fraction of the lowest
    fused entries of every row to zero before normalising [ours: per row, so that no row loses all
    its entries]; entries in the first `prefix` columns (class, distillation and register tokens) are
    never discarded; among equal entries, those with lower indices are discarded first.

    Raises:
        ValueError: unknown fusion, discard outside [0, 1), or no maps.
    """
    return product(mixed(block_maps, fuse, discard, prefix) for block_maps in maps)


def product(steps: Iterable[Float[Tensor, "B N N"]]) -> Float[Tensor, "B N N"]:
    """The product of the blocks' factors, given first block first.

    Raises:
        ValueError: no factors.
    """
    total: Tensor | None = None
    for step in steps:
        total = step if total is None else step @ total
    if total is None:
        raise ValueError("rollout needs the attention maps of at least one block, got none")
    return total


def mixed(
    block_maps: Float[Tensor, "B H N N"], fuse: str, discard: float, prefix: int
) -> Float[Tensor, "B N N"]:
    """One block's factor in the rollout, rownorm(fuse_h(A) + I); see `rollout` for the arguments.

    It is I for a block without heads, which has no attention.

    Raises:
        ValueError: unknown fusion, or discard outside [0, 1).
    """
    if fuse not in FUSIONS:
        raise ValueError(f"fuse must be one of {', '.join(FUSIONS)}, got {fuse!r}")
    fused = FUSIONS[fuse](block_maps) if block_maps.shape[1] else block_maps.sum(dim=1)
    return with_skip(fused, discard, prefix)


def with_skip(fused: Float[Tensor, "B N N"], discard: float, prefix: int) -> Float[Tensor, "B N N"]:
    """rownorm(fused + I) after discarding the lowest entries of every row; I is the skip connection.

    Raises:
        ValueError: discard outside [0, 1).
    """
    if not 0 <= discard < 1:
        raise ValueError(f"discard must be at least 0 and below 1, got {discard}")
    fused = _discard(fused, discard, prefix)
    total = fused + torch.eye(fused.shape[-1], dtype=fused.dtype, device=fused.device)
    return total / total.sum(dim=-1, keepdim=True)


def rollout_from(
    read: Float[Tensor, "R N"], backwards: Iterable[Float[Tensor, "N N"]]
) -> Float[Tensor, "R N"]:
    """`read` times the product of the blocks' factors, given last block first.

    Computing R rows of a rollout this way takes R x N by N x N products instead of N x N by N x N.
    """
    for step in backwards:
        read = read @ step
    return read


def _discard(fused: Tensor, fraction: float, prefix: int) -> Tensor:
    drop = int(fraction * (fused.shape[-1] - prefix))
    if drop == 0:
        return fused
    # stable: otherwise the order of equal entries would depend on the machine
    lowest = fused[..., prefix:].argsort(dim=-1, stable=True)[..., :drop] + prefix  # B N drop
    return fused.scatter(-1, lowest, 0.0)
