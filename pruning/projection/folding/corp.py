"""CORP: closed-form compensation of MLP neurons and query-key pairs (Zhang, Yang; arXiv 2602.05243).

Written from the paper's abstract and the outline in the authors' README; the paper itself could not be
read. [paper]: one shot, on a small set of calibration images, without labels, gradients or training.
Activations of an MLP and attention logits that are removed are modelled as affine functions of what
stays, x_P ~ B x_S + c, solved in closed form by ridge regression, and folded into the weights: W_S + W_P B
and b + W_P c. MLP neurons and channels of queries and keys are pruned; values and heads are not.

What could be read leaves the rest open, so it is [ours]:
- The ranking. A neuron counts by the variance of what it adds to the output of `fc2`, a query-key pair by the
  mean square of what it adds to the logits. Every block loses the ratio, every head of it the same number.
- Logits that are lost, q_P^T k_P, are modelled as [q_S, 1]^T M k_S over all pairs of tokens of one image, as
  the attention computes them. The terms that all keys share are left out, because the softmax ignores them.
  M is folded into the queries alone, its constant row into their bias, if there is one.
- The ridge is relative to the variance of each input, and its strength an option.
- All statistics are the dense model's, and every token counts alike.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor

from analysis.measure import Batches
from analysis.vit import Attention, Block, Mlp, ViT
from pruning.cut import BlockPlan, Scores
from pruning.options import ImageOptions, option_field
from pruning.projection.block_parts import HalfBlock, rows_by_head, set_rows
from pruning.projection.folding.fold import Inputs, halves_before, unranked
from pruning.projection.folding.logits import PairProducts, logit_map
from pruning.projection.folding.neuron_statistics import NeuronStatistics
from pruning.projection.least_squares import Moments, Statistics, ridge


@dataclass(frozen=True)
class CorpOptions(ImageOptions):
    """Settings of CORP."""

    images: int = option_field(256, 1, 4096, "Calibration images the activations are measured on, at most.")
    ridge: float = option_field(
        1e-3, 1e-9, 10.0, "Strength of the ridge, relative to the variance of each input of a regression."
    )


@torch.no_grad()
def corp_scores(model: ViT, batches: Batches, options: CorpOptions) -> Scores:
    """What each neuron adds to the output of its MLP, and each query-key pair to the logits of its head.

    Raises:
        ValueError: no images, or activations that are not finite.
    """
    blocks, device = model.arch.blocks, model.pos_embed.device
    neurons = [NeuronStatistics(widths.mlp, device) for widths in blocks]
    pairs = [torch.zeros(widths.heads, widths.qk, dtype=torch.float64, device=device) for widths in blocks]
    for index, half, x in halves_before(model, batches):
        if isinstance(half.part, Mlp):
            neurons[index].add(half.before_writer()(x))
        else:
            pairs[index] += PairProducts.of(half.part, half.norm(x)).energies()
    mlp = tuple(
        (one.variance * _lengths(block)).cpu() for one, block in zip(neurons, model.blocks, strict=True)
    )
    return replace(unranked(model.arch), qk=tuple(one.cpu() for one in pairs), mlp=mlp)


def _lengths(block: Block) -> Float[Tensor, " F"]:
    """Squared lengths of the columns of `fc2`."""
    return torch.zeros(0) if block.mlp is None else block.mlp.fc2.weight.double().square().sum(dim=0)


@dataclass(frozen=True)
class AffineFolding:
    """CORP's compensation, with a ridge of this strength."""

    strength: float

    def measure(self, half: HalfBlock, inputs: Inputs) -> Statistics | PairProducts:
        """Statistics of the neurons' activations, or products of queries and of keys.

        Raises:
            ValueError: no images, or activations that are not finite.
        """
        if isinstance(half.part, Attention):
            return PairProducts.joined([PairProducts.of(half.part, half.norm(x)) for x in inputs])
        moments = Moments(half.writer.in_features, 0, half.writer.weight.device)
        neurons = half.before_writer()
        for x in inputs:
            activations = neurons(x)
            moments.add(activations, activations[..., :0], torch.ones(activations.shape[1]).to(activations))
        return moments.statistics()

    def fold(
        self, known: Statistics | PairProducts, half: HalfBlock, narrow: HalfBlock, kept: BlockPlan
    ) -> None:
        """Fold what the lost neurons or pairs did into `fc2`, or into the queries."""
        if isinstance(known, Statistics):
            self._fold_neurons(known, half, narrow, kept)
        else:
            self._fold_pairs(known, half, narrow, kept)

    def _fold_neurons(self, known: Statistics, half: HalfBlock, narrow: HalfBlock, kept: BlockPlan) -> None:
        weight, bias = half.writer.weight.double(), half.writer.bias.double()
        stay = torch.tensor(kept.mlp, device=weight.device)
        gone = torch.ones_like(known.mean_in, dtype=torch.bool)
        gone[stay] = False
        lost = Statistics(
            known.mean_in[stay],
            known.mean_in[gone],
            known.covariance[stay][:, stay],
            known.covariance[stay][:, gone],
        )
        share = ridge(lost, lost.cross.new_zeros(lost.cross.shape[::-1]), self.strength)  # P S
        narrow.writer.weight.copy_(weight[:, stay] + weight[:, gone] @ share)
        narrow.writer.bias.copy_(bias + weight[:, gone] @ (lost.mean_out - share @ lost.mean_in))

    def _fold_pairs(self, known: PairProducts, half: HalfBlock, narrow: HalfBlock, kept: BlockPlan) -> None:
        attn = cast(Attention, narrow.part)
        queries, keys, values = rows_by_head(attn)  # H Dqk E+1
        constant = attn.qkv.bias is not None
        for place, (head, pairs) in enumerate(zip(kept.heads, kept.qk, strict=True)):
            found = logit_map(known, head, pairs, self.strength, constant)  # S+1 S
            queries[place] += found[:-1].T @ queries[place]
            queries[place, :, -1] += found[-1]
        set_rows(attn.qkv, queries, keys, values)
