"""VBP: variance-based pruning of MLP neurons (Berisha, Mehnert, Condurache; ICCV 2025; arXiv 2507.12988).

Written from the paper's abstract and from public summaries of it. [paper]: the mean and the variance of
every MLP neuron are measured behind the activation function, by Welford's algorithm. The neurons of the
lowest variance go, ranked over all blocks together. What a removed neuron j contributed on average is
added to the bias of `fc2` (mean-shift compensation): b' = b + sum_j W_j mean_j. Its expected squared error
is then its variance. No other structure is pruned.

[ours]: every token of every image is one sample, also the tokens that nothing reads behind the last
block; each block keeps at least one neuron; the number of images.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from analysis.measure import Batches
from analysis.vit import Mlp, ViT
from pruning.criteria import SCOPES
from pruning.cut import BlockPlan, Scores
from pruning.options import ImageOptions, choice_field, option_field
from pruning.projection.block_parts import HalfBlock
from pruning.projection.folding.fold import Inputs, halves_before, unranked
from pruning.projection.folding.neuron_statistics import NeuronStatistics


@dataclass(frozen=True)
class VbpOptions(ImageOptions):
    """Settings of VBP."""

    images: int = option_field(256, 1, 4096, "Calibration images the activations are measured on, at most.")
    scope: str = choice_field(
        "global",
        tuple(reversed(SCOPES)),
        "global removes the ratio of all MLP neurons, ranking all blocks together, as published; block "
        "removes it in every block. Budgets and a ratio for each block say themselves how many go where.",
    )


@torch.no_grad()
def vbp_scores(model: ViT, batches: Batches, options: VbpOptions) -> Scores:
    """The variance of every MLP neuron's activation; all other scores are zero.

    Raises:
        ValueError: no images, or activations that are not finite.
    """
    found = [NeuronStatistics(widths.mlp, model.pos_embed.device) for widths in model.arch.blocks]
    for index, half, x in halves_before(model, batches):
        if isinstance(half.part, Mlp):
            found[index].add(half.before_writer()(x))
    return replace(unranked(model.arch), mlp=tuple(one.variance.cpu() for one in found))


class MeanShift:
    """VBP's compensation: the mean contribution of removed neurons goes into the bias of `fc2`."""

    def measure(self, half: HalfBlock, inputs: Inputs) -> Float[Tensor, " F"]:
        """Mean activation of every neuron.

        Raises:
            ValueError: no images, or activations that are not finite.
        """
        found, neurons = (
            NeuronStatistics(half.writer.in_features, half.writer.weight.device),
            half.before_writer(),
        )
        for x in inputs:
            found.add(neurons(x))
        return found.mean

    def fold(self, known: Float[Tensor, " F"], half: HalfBlock, narrow: HalfBlock, kept: BlockPlan) -> None:
        """b' = b + W_P mean_P for the removed neurons P."""
        removed = torch.ones_like(known)
        removed[list(kept.mlp)] = 0
        shift = half.writer.weight.double() @ (removed * known)
        narrow.writer.bias.copy_(half.writer.bias.double() + shift)
