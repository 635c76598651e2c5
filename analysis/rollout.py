"""Attention rollout: how much each input token can have reached each output token."""

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

    Row i of the result is where output token i got its content from; rows sum to one.
    `maps` are the blocks' attention maps, first block first, and may be a generator: only the
    running product is held. `fuse` joins the heads. `discard` drops that fraction of the lowest
    fused entries of every row before normalising [ours: per row, so that no row is left without
    any]; entries of the first `prefix` columns (class, distillation and register tokens) are
    never dropped.

    Raises:
        ValueError: unknown fusion, discard outside [0, 1), or no maps.
    """
    if fuse not in FUSIONS:
        raise ValueError(f"fuse must be one of {', '.join(FUSIONS)}, got {fuse!r}")
    if not 0 <= discard < 1:
        raise ValueError(f"discard must be at least 0 and below 1, got {discard}")
    total: Tensor | None = None
    for block_maps in maps:
        fused = _discard(FUSIONS[fuse](block_maps), discard, prefix)  # B N N
        mixed = fused + torch.eye(fused.shape[-1], dtype=fused.dtype, device=fused.device)
        mixed = mixed / mixed.sum(dim=-1, keepdim=True)
        total = mixed if total is None else mixed @ total
    if total is None:
        raise ValueError("rollout needs the attention maps of at least one block, got none")
    return total


def _discard(fused: Tensor, fraction: float, prefix: int) -> Tensor:
    drop = int(fraction * (fused.shape[-1] - prefix))
    if drop == 0:
        return fused
    lowest = fused[..., prefix:].topk(drop, dim=-1, largest=False).indices + prefix  # B N drop
    return fused.scatter(-1, lowest, 0.0)
