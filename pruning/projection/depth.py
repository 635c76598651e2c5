"""Removing whole halves of blocks: an attention or MLP goes, and the mean of what it added stays [ours]."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from analysis.measure import Batches
from analysis.outputs import divergence, read_output
from analysis.vit import ViT
from pruning.budget import HalfLoss
from pruning.cut import Half, without_halves
from pruning.progress import Progress, quiet
from pruning.projection.block_parts import folded, present, set_folded, working_copy

Batch = tuple[Float[Tensor, "B C Y X"], Tensor]
_IMAGES = 128  # that means are taken over, at most


def remove_halves(model: ViT, gone: Collection[Half], batches: Batches) -> ViT:
    """A new model without these halves; what wrote to the stream before them adds the mean of each.

    Means are over all tokens of some images, in the whole model. A constant that is added to every token
    passes through merging, so it may be added before it. LayerScale of a layer that takes up a mean is
    folded into it.

    Raises:
        ValueError: the model has no such half or cannot do without, or there are no images.
    """
    numbers = {2 * index + half for index, half in gone}
    missing = numbers - {number for number, _ in present(model)}
    if missing:
        block, half = divmod(min(missing), 2)
        raise ValueError(f"block {block} has no {('attention', 'MLP')[half]} to remove")
    means, whole = mean_additions(model, batches), working_copy(model)
    with torch.no_grad():
        carried = torch.zeros_like(means[min(means)])
        for number, part in reversed(list(present(whole))):
            if number in numbers:
                carried = carried + means[number]
            elif bool(carried.any()):
                weight, bias = folded(part.writer, part.scale)
                set_folded(part.writer, part.scale, weight, bias + carried)
                carried = torch.zeros_like(carried)
        if bool(carried.any()):
            _add_to_stem(whole, carried)
    small = ViT(without_halves(model.arch, gone)).to(next(whole.parameters()))
    names = small.state_dict().keys()
    small.load_state_dict({name: value for name, value in whole.state_dict().items() if name in names})
    return small.to(next(model.parameters())).train(model.training)


def mean_additions(model: ViT, batches: Iterable[Batch]) -> dict[int, Float[Tensor, " E"]]:
    """The mean of what each half of a block adds to the stream, by its number as of `present`.

    Raises:
        ValueError: no images.
    """
    dense, count = working_copy(model), 0
    zeros = torch.zeros(model.arch.embed_dim, dtype=torch.float64, device=dense.pos_embed.device)
    sums = {number: zeros.clone() for number, _ in present(dense)}
    with torch.no_grad():
        for batch, _ in batches:
            x = dense.embed(batch[: _IMAGES - count].to(dense.pos_embed))
            count += len(x)
            for number, half in present(dense):
                behind = half.through(x)
                sums[number] += (behind - x).double().mean(dim=1).sum(dim=0)
                x = behind
            if count == _IMAGES:
                break
    if not count:
        raise ValueError("removing halves of blocks needs calibration images, got none")
    return {number: total / count for number, total in sums.items()}


@torch.no_grad()
def measure_halves(
    model: ViT, batches: Sequence[Batch], means: dict[int, Float[Tensor, " E"]], progress: Progress = quiet
) -> tuple[HalfLoss, ...]:
    """Mean divergence (`analysis.outputs`) for every half of a block, replaced by its mean.

    Raises:
        ValueError: no images.
    """
    dense, count = working_copy(model), 0
    parts = list(present(dense))
    sums = {number: 0.0 for number, _ in parts}
    for done, (batch, _) in enumerate(batches):
        streams = [dense.embed(batch.to(dense.pos_embed))]
        for _, part in parts:
            streams.append(part.through(streams[-1]))
        whole = read_output(dense, streams[-1])
        for place, (number, _) in enumerate(parts):
            progress("Measuring halves of blocks", (done + place / len(parts)) / len(batches))
            x = streams[place] + means[number].to(streams[place])
            for _, part in parts[place + 1 :]:
                x = part.through(x)
            sums[number] += float(divergence(whole, read_output(dense, x)).sum())
        count += len(batch)
    if not count:
        raise ValueError("halves of blocks are measured on images, got none")
    progress("Measuring halves of blocks", 1.0)
    return tuple(HalfLoss(*divmod(number, 2), kl=total / count) for number, total in sums.items())


def _add_to_stem(model: ViT, shift: Float[Tensor, " E"]) -> None:
    """Add the same to every token that enters the first block."""
    if isinstance(model.norm_pre, nn.RMSNorm):
        raise ValueError("what comes first behind a norm without bias cannot go: nothing takes up its mean")
    if isinstance(model.norm_pre, nn.LayerNorm):
        model.norm_pre.bias.add_(shift)
        return
    model.pos_embed.add_(shift)
    if not model.arch.pos_embed_prefix:
        for token in (model.cls_token, model.dist_token, model.reg_token):
            if token is not None:
                token.add_(shift)
