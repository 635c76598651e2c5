"""Compensation: after a selection, `proj` and `fc2` learn to do without what was removed.

No training: least squares on calibration images, block by block, on the activations of the pruned
model, so that its residual stream comes back to the dense model's [ours]. Off is as published.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from analysis.measure import Batches
from analysis.vit import ViT
from pruning.activations import Activations
from pruning.projection.block_parts import present, working_copy
from pruning.projection.refit import refit_writer
from pruning.projection.streams import Streams, token_weights

COMPENSATION_IMAGES = 256  # calibration images, at most
_FOCUS = 0.1  # of the weight goes to the tokens the classifier reads


def compensate(
    dense: ViT,
    cut: ViT,
    batches: Batches,
    embed: Sequence[int],
    progress: Callable[[float], None] = lambda _: None,
    steered: float = 1.0,
    place: Path | None = None,
) -> ViT:
    """A copy of `cut`, which was cut from `dense`, with `proj` and `fc2` of every block refitted.

    `embed` are the channels of the residual stream that `cut` kept. The weights are shrunk towards
    those of `cut`, as far as held-out images say. Of the images a share `steered` is first changed
    towards other classes (`steering.steer`). LayerScale is folded into the layer before. Activations lie on
    disk, in `place` or a temporary folder.

    Raises:
        ValueError: no images, or activations that are not finite.
        OSError: no room for the activations.
    """
    large, small = working_copy(dense), working_copy(cut)
    device = next(large.parameters()).device
    with torch.no_grad(), Activations(device, place) as stored:
        streams = Streams(stored, large, batches, COMPENSATION_IMAGES, steered, small)
        kept = torch.tensor(embed, device=device)
        for (number, wide), (_, narrow) in zip(present(large), present(small), strict=True):
            weights = token_weights(dense.arch, number // 2, _FOCUS).to(device)
            refit_writer(wide, narrow, streams, weights, lambda x: x[..., kept], keep_bias=True)
            progress((number + 1) / (2 * dense.arch.depth))
    return small.to(next(cut.parameters())).train(cut.training).requires_grad_(True)
