"""How well a smaller model preserves the attention maps of the dense model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from analysis.attention.capture import capture
from analysis.vit import ViT

Kept = Sequence[Sequence[int] | None]  # per block, the dense head that each remaining head comes from


def preservation(
    dense: ViT, small: ViT, batches: Iterable[Float[Tensor, "B C Y X"]], kept: Kept
) -> tuple[Float[Tensor, " H"], ...]:
    """Attention preservation (methods.md, section 4): per block, one value per head of the dense model.

    A value is the cosine similarity between the head's N x N attention maps in both models, each
    flattened to a vector, averaged over images. Maps of a model that merges are compared as maps between
    patches, in which all patches of a token are alike. `kept[l]` gives, for each head of block l of the small
    model, the dense head it comes from, or is None if that is not known. Values of removed heads, and
    of blocks with None, are NaN.

    Raises:
        ValueError: no images, models with different depths or token counts, or `kept` does not fit them.
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
                    both = (
                        a.patch_attention[:, list(heads)].flatten(2),
                        b.patch_attention.flatten(2),
                    )  # B H NN
                    totals[a.index][list(heads)] += F.cosine_similarity(*both, dim=-1).sum(0).double().cpu()
                del a, b  # free these maps before the next block's are computed
    if not count:
        raise ValueError("attention is compared on images, got none")
    return tuple(_nan_except(total / count, heads) for total, heads in zip(totals, kept, strict=True))


def share_moved(before: Float[Tensor, "... Y X"], after: Float[Tensor, "... Y X"]) -> Float[Tensor, "..."]:
    """The share of attention that lies on other patches than before, from 0 to 1 [ours].

    The total variation distance: half the sum of absolute differences of both maps, each scaled to sum 1.
    """
    one, other = (values.flatten(-2) / values.sum((-2, -1)).unsqueeze(-1) for values in (before, after))
    return (one - other).abs().sum(-1) / 2


def _nan_except(values: Tensor, heads: Sequence[int] | None) -> Tensor:
    shown = torch.full_like(values, float("nan"), dtype=torch.float32)
    if heads is not None:
        shown[list(heads)] = values[list(heads)].float()
    return shown


def _require_fit(dense: ViT, small: ViT, kept: Kept) -> None:
    first, second = dense.arch, small.arch
    if (first.depth, first.num_tokens) != (second.depth, second.num_tokens):
        raise ValueError(
            f"both models must have the same number of blocks and tokens, got {first.depth} blocks with "
            f"{first.num_tokens} tokens and {second.depth} with {second.num_tokens}"
        )
    if len(kept) != first.depth:
        raise ValueError(f"kept must have an entry for each of the {first.depth} blocks, got {len(kept)}")
    for index, heads in enumerate(kept):
        if heads is None:
            continue
        there, left = first.blocks[index].heads, second.blocks[index].heads
        if len(heads) != left or len(set(heads)) != left or not set(heads) <= set(range(there)):
            raise ValueError(
                f"block {index} keeps {left} of {there} heads: kept must list that many different heads, "
                f"got {tuple(heads)}"
            )
