"""Schedules of merging: which block merges how many tokens, and how far each moves the predictions.

Merging needs no weights, so the damage of a schedule is measured on the model itself, by one forward pass
that is cheaper than the dense one. Budgets choose among what was measured here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from analysis.vit import Architecture, ViT
from pruning.budget.curves import MergeLoss
from pruning.budget.sensitivity import kl_divergence
from pruning.cut import at_most_half, can_merge, unmerged, with_architecture, with_merges
from pruning.progress import Progress, quiet

# Tokens merged altogether, as shares of the patches: where a shape of schedules is measured. Between
# these, in steps of `_STEP`, the logarithm of the divergence goes along a line over that of the share.
_MEASURED = {
    "quarter": (0.2, 0.4, 0.6, 0.75, 0.9),
    "sixth": (0.6, 0.8, 0.95),
    "twelfth": (0.5, 0.7, 0.85, 0.95),
    "few": (0.4, 0.6, 0.8),
    "apart": (0.5, 0.75, 0.95),
}
_STEP = 0.05
_LEAST = 1e-12  # a divergence below this counts as this where a logarithm is taken


def schedules(arch: Architecture) -> tuple[tuple[int, ...], ...]:
    """The schedules that are measured, each as the tokens that every block merges [ours].

    For several shares of the patches merged altogether: from the quarter, the sixth or the twelfth of the
    depth on fewer from block to block, down to none in the last; the same number in a third of the blocks
    from the quarter on; and the same number in three blocks far apart, which costs the least time. Merging
    in the first blocks was measured to be the dearest.
    """
    planned = [_schedule(arch, shape, share) for shape, shares in _MEASURED.items() for share in shares]
    return tuple(dict.fromkeys(merges for merges in planned if any(merges)))


def _schedule(arch: Architecture, shape: str, share: float) -> tuple[int, ...]:
    """So much of the patches merged by a shape; none where no block of it can merge."""
    patches, able = arch.grid[0] * arch.grid[1], can_merge(arch)
    weights = [weight * ok for weight, ok in zip(_shape(shape, arch.depth), able, strict=True)]
    if not any(weights):
        return (0,) * arch.depth
    return at_most_half(unmerged(arch), shared_out(round(share * patches), weights))


def _shape(name: str, depth: int) -> list[float]:
    """How much every block merges in proportion."""
    quarter, sixth, twelfth = (round(depth / parts) for parts in (4, 6, 12))
    falling = {"quarter": quarter, "sixth": sixth, "twelfth": twelfth}
    if name in falling:
        first = falling[name]
        return [float(max(0, depth - 1 - block)) if block >= first else 0.0 for block in range(depth)]
    few = range(quarter, quarter + max(1, depth // 3))
    apart = range(twelfth, 3 * depth // 4, max(1, depth // 4))
    return [float(block in (few if name == "few" else apart)) for block in range(depth)]


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
    model: ViT, batches: Iterable[tuple[Tensor, Tensor]], progress: Progress = quiet
) -> tuple[MergeLoss, ...]:
    """Mean KL divergence (dense || merging) of every schedule of `schedules`, and of those between them.

    Raises:
        ValueError: no images.
    """
    whole = with_architecture(model, unmerged(model.arch)).eval()
    planned = schedules(model.arch)
    merging = [with_architecture(whole, with_merges(whole.arch, merges)).eval() for merges in planned]
    sums, count = [0.0] * len(planned), 0
    for images, _ in batches:
        logits = whole(images)
        for number, smaller in enumerate(merging):
            progress("Measuring merged tokens", number / len(planned))
            sums[number] += float(kl_divergence(logits, smaller(images)).sum())
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
    for shape, shares in _MEASURED.items():
        known = {
            sum(merges): measured[merges]
            for merges in (_schedule(arch, shape, s) for s in shares)
            if merges in measured
        }
        if len(known) < 2:
            continue
        counts = sorted(known)
        losses = np.maximum.accumulate([max(known[count], _LEAST) for count in counts])
        for step in range(1, round(1 / _STEP)):
            merges = _schedule(arch, shape, step * _STEP)
            if counts[0] <= sum(merges) <= counts[-1] and merges not in found:
                found[merges] = float(np.exp(np.interp(np.log(sum(merges)), np.log(counts), np.log(losses))))
    return found
