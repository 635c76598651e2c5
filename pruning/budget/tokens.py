"""Schedules of merging: which block merges how many tokens, and how far each moves the predictions.

Merging needs no weights, so the damage of a schedule is measured on the model itself, by one forward pass
that is cheaper than the dense one. Budgets choose among what was measured here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from analysis.outputs import divergence, output_from
from analysis.vit import Architecture, ViT
from pruning.budget.curves import MergeLoss
from pruning.cut import at_most_half, can_merge, unmerged, with_architecture, with_merges
from pruning.progress import Progress, quiet

# Blocks that merge the same number each: the first of them and how many, in twelfths of the depth; and the
# shares of all patches at which the window is measured. Between these, in steps of `_STEP`, the logarithm of
# the divergence goes along a line over that of the share.
_WINDOWS = {
    (0, 3): (0.4, 0.7, 0.9),
    (3, 5): (0.2, 0.45, 0.65, 0.8, 0.9),
    (3, 4): (0.3, 0.6, 0.8),
    (2, 6): (0.5, 0.7, 0.85),
    (2, 4): (0.6, 0.8, 0.9),
    (1, 6): (0.6, 0.8, 0.93),
}
_STEP = 0.05
_LEAST = 1e-12  # a divergence below this counts as this where a logarithm is taken


def schedules(arch: Architecture) -> tuple[tuple[int, ...], ...]:
    """The schedules that are measured, each as the tokens that every block merges [ours].

    A window of a third to a half of the blocks merges the same number each, from the quarter of the depth on
    or, where much has to go, from earlier. Merging in the first blocks was measured to be the dearest, and
    merging in every block to lose more and to take longer than merging in a few.
    """
    planned = [schedule(arch, window, share) for window, shares in _WINDOWS.items() for share in shares]
    return tuple(dict.fromkeys(merges for merges in planned if any(merges)))


def schedule(arch: Architecture, window: tuple[int, int], share: float) -> tuple[int, ...]:
    """So much of the patches merged in a window; none where no block of it can merge.

    The window is its first block and its number of blocks, both in twelfths of the depth.
    """
    first, count = window[0] * arch.depth / 12, max(1, round(window[1] * arch.depth / 12))
    chosen = range(round(first), round(first) + count)
    weights = [float(able and block in chosen) for block, able in enumerate(can_merge(arch))]
    if not any(weights):
        return (0,) * arch.depth
    merges = shared_out(round(share * arch.grid[0] * arch.grid[1]), weights)
    return at_most_half(unmerged(arch), merges)


def shared_out(total: int, weights: Sequence[float]) -> tuple[int, ...]:
    """Whole numbers in proportion to the weights, which add up to `total`."""
    exact = [total * weight / sum(weights) for weight in weights]
    counts = [int(number) for number in exact]
    rests = sorted(range(len(counts)), key=lambda index: (counts[index] - exact[index], index))
    for index in rests[: total - sum(counts)]:
        counts[index] += 1
    return tuple(counts)


@torch.no_grad()
def measure_schedules(
    model: ViT, batches: Sequence[tuple[Tensor, Tensor]], progress: Progress = quiet
) -> tuple[MergeLoss, ...]:
    """Mean divergence from the dense model of every schedule of `schedules`, and of those between them.

    Raises:
        ValueError: no images.
    """
    whole = with_architecture(model, unmerged(model.arch)).eval()
    planned = schedules(model.arch)
    merging = [with_architecture(whole, with_merges(whole.arch, merges)).eval() for merges in planned]
    sums, count = [0.0] * len(planned), 0
    for place, (images, _) in enumerate(batches):
        streams = [whole.embed(images)]  # before each block; as long as none has merged, of every model
        for block in whole.blocks[:-1]:
            streams.append(block(streams[-1])[0])
        dense = output_from(whole, streams[-1], whole.arch.depth - 1)
        for number, (merges, smaller) in enumerate(zip(planned, merging, strict=True)):
            progress("Measuring merged tokens", (place + number / len(planned)) / len(batches))
            first = next(index for index, gone in enumerate(merges) if gone)
            sums[number] += float(divergence(dense, output_from(smaller, streams[first], first)).sum())
        count += len(images)
    if not count:
        raise ValueError("schedules of merging are measured on images, got none")
    progress("Measuring merged tokens", 1.0)
    measured = {merges: total / count for merges, total in zip(planned, sums, strict=True)}
    return tuple(MergeLoss(merges, kl) for merges, kl in _with_between(whole.arch, measured).items())


def _with_between(
    arch: Architecture, measured: Mapping[tuple[int, ...], float]
) -> dict[tuple[int, ...], float]:
    """The same schedules with those between them: of each shape, in steps of the share that is merged."""
    found = dict(measured)
    for shape, shares in _WINDOWS.items():
        known = {
            sum(merges): measured[merges]
            for merges in (schedule(arch, shape, s) for s in shares)
            if merges in measured
        }
        if len(known) < 2:
            continue
        counts = sorted(known)
        losses = np.maximum.accumulate([max(known[count], _LEAST) for count in counts])
        for step in range(1, round(1 / _STEP)):
            merges = schedule(arch, shape, step * _STEP)
            if counts[0] <= sum(merges) <= counts[-1] and merges not in found:
                found[merges] = float(np.exp(np.interp(np.log(sum(merges)), np.log(counts), np.log(losses))))
    return found
