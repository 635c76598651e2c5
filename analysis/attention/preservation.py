"""How far a smaller model's heads still look where they did."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from analysis.attention.capture import capture
from analysis.vit import ViT

Kept = Sequence[Sequence[int] | None]  # per block, the dense head behind each head that is left


def preservation(
    dense: ViT, small: ViT, batches: Iterable[Float[Tensor, "B C Y X"]], kept: Kept
) -> tuple[Float[Tensor, " H"], ...]:
    """Attention preservation (methods.md, section 4): per block, one value per head of the dense model.

    A value is the cosine between the head's N x N attention maps in both models, each taken as one
    vector, averaged over the images. `kept[l]` names, for each head of block l of the small model, the
    dense head it comes from; None where that is not known. Heads that are gone, and blocks of which
    nothing is known, are nan.

    Raises:
        ValueError: no images, models of different depth or tokens, or `kept` does not fit them.
    """
    _require_fit(dense, small, kept)
    totals = [torch.zeros(block.heads, dtype=torch.float64) for block in dense.arch.blocks]
    count = 0
    with capture(dense) as first, capture(small) as second:
        for images in batches:
            count += len(images)
            for a, b in zip(first(images), second(images), strict=True):
                heads = kept[a.index]
                if heads is not None:
                    both = a.attention[:, list(heads)].flatten(2), b.attention.flatten(2)  # B H NN
                    totals[a.index][list(heads)] += F.cosine_similarity(*both, dim=-1).sum(0).double().cpu()
                del a, b  # or the maps of two blocks would be held at once
    if not count:
        raise ValueError("attention is compared on images, got none")
    return tuple(_blank(total / count, heads) for total, heads in zip(totals, kept, strict=True))


def _blank(values: Tensor, heads: Sequence[int] | None) -> Tensor:
    shown = torch.full_like(values, float("nan"), dtype=torch.float32)
    if heads is not None:
        shown[list(heads)] = values[list(heads)].float()
    return shown


def _require_fit(dense: ViT, small: ViT, kept: Kept) -> None:
    first, second = dense.arch, small.arch
    if (first.depth, first.num_tokens) != (second.depth, second.num_tokens):
        raise ValueError(
            f"both models must have as many blocks and tokens, got {first.depth} blocks of "
            f"{first.num_tokens} tokens and {second.depth} of {second.num_tokens}"
        )
    if len(kept) != first.depth:
        raise ValueError(f"kept must name the heads of all {first.depth} blocks, got {len(kept)}")
    for index, heads in enumerate(kept):
        if heads is None:
            continue
        there, left = first.blocks[index].heads, second.blocks[index].heads
        if len(heads) != left or len(set(heads)) != left or not set(heads) <= set(range(there)):
            raise ValueError(
                f"block {index} has {left} heads left of {there}: kept must name as many of them, "
                f"got {tuple(heads)}"
            )
