"""Compensation: after a selection, `proj` and `fc2` learn to do without what was removed.

No training: least squares on calibration images, block by block, on the activations of the pruned
model, so that its residual stream comes back to the dense model's [ours]. Off is as published.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from analysis.measure import Batches
from analysis.vit import Block, ViT
from pruning.projection.folded_layers import folded, set_folded, without_proj, working_copy
from pruning.projection.least_squares import Moments, ridge_held_out
from pruning.projection.streams import Streams, token_weights

COMPENSATION_IMAGES = 256  # calibration images, at most
_FOCUS = 0.1  # of the weight goes to the tokens the classifier reads


@dataclass(frozen=True)
class _Branch:
    """Half a block: what it adds to the dense stream, and the layer of the pruned one to refit."""

    dense: Callable[[Tensor], Tensor]
    inputs: Callable[[Tensor], Tensor]
    layer: nn.Linear
    behind: nn.Module


def compensate(
    dense: ViT,
    cut: ViT,
    batches: Batches,
    embed: Sequence[int],
    progress: Callable[[float], None] = lambda _: None,
    steered: float = 1.0,
) -> ViT:
    """A copy of `cut`, which was cut from `dense`, with `proj` and `fc2` of every block refitted.

    `embed` are the channels of the residual stream that `cut` kept. The weights are shrunk towards
    those of `cut`, as far as held-out images say. Of the images a share `steered` is first changed
    towards other classes (`calibration.steer`). LayerScale is folded into the layer before.

    Raises:
        ValueError: no images, or activations that are not finite.
        OSError: no room for the activations.
    """
    large, small = working_copy(dense), working_copy(cut)
    depth = dense.arch.depth
    with torch.no_grad(), tempfile.TemporaryDirectory(prefix="prunescope-") as folder:
        streams = Streams(Path(folder), large, batches, COMPENSATION_IMAGES, steered, small)
        kept = torch.tensor(embed, device=streams.device)
        for index in range(depth):
            weights = token_weights(dense.arch, index == depth - 1, _FOCUS).to(streams.device)
            blocks = large.blocks[index], small.blocks[index]
            for half, branch in enumerate((_attention(small, index, *blocks), _mlp(*blocks))):
                _refit(streams, kept, weights, branch)
                progress((index + (half + 1) / 2) / depth)
    return small.to(next(cut.parameters())).train(cut.training).requires_grad_(True)


def _attention(small: ViT, index: int, block: Block, narrow: Block) -> _Branch:
    heads = without_proj(small.arch, small.arch.blocks[index])
    heads.qkv = narrow.attn.qkv
    return _Branch(
        lambda x: block.ls1(block.attn(block.norm1(x))),
        lambda x: heads(narrow.norm1(x)),
        narrow.attn.proj,
        narrow.ls1,
    )


def _mlp(block: Block, narrow: Block) -> _Branch:
    return _Branch(
        lambda x: block.ls2(block.mlp(block.norm2(x))),
        lambda x: narrow.mlp.act(narrow.mlp.fc1(narrow.norm2(x))),
        narrow.mlp.fc2,
        narrow.ls2,
    )


def _refit(streams: Streams, kept: Tensor, weights: Tensor, branch: _Branch) -> None:
    """Refit a layer so that the pruned stream meets the dense one behind it; takes both streams there."""
    layer, behind = branch.layer, branch.behind
    weight, bias = folded(layer, behind)
    moments = Moments(layer.in_features, layer.out_features, streams.device)
    for number, dense, x in streams:
        after = dense + branch.dense(dense)
        moments.add(branch.inputs(x), after[..., kept] - x, weights)
        streams.write(number, dense=after)
    whole = moments.statistics()
    fitted, strength = ridge_held_out(whole, moments.halves(), weight)
    if strength < float("inf"):  # else held-out images speak against any change
        bias = whole.mean_out - fitted @ whole.mean_in
    set_folded(layer, behind, fitted, bias)
    for number, _, x in streams:
        streams.write(number, pruned=x + behind(layer(branch.inputs(x))))
