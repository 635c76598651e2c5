"""GOHSP's ranking of heads: stationary mass of the head graph, and how many heads each block keeps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from analysis.heads import SIMILARITIES, similarities, stationary, transition
from analysis.measure import Batches
from analysis.vit import ViT
from pruning.cut import Scores, heads_only
from pruning.options import ImageOptions, choice_field, option_field

# The paper's wording suggests central. Measured before training (benchmarks/RESULTS.md), CKA with central
# is the only ranking by a graph that beats a random choice on DeiT-Tiny; on the demo it does so, too.
KEEP = ("central", "distinct")
SCOPES = ("block", "global")


@dataclass(frozen=True)
class GraphOptions(ImageOptions):
    """How heads are ranked by their graph."""

    similarity: str = choice_field(
        "cka",
        tuple(SIMILARITIES),
        "What joins two heads: cosine or linear CKA of what they add to the residual stream, overlap of "
        "their attention (all symmetric: without teleport the chain gives the plain degree and adds "
        "nothing), or how well one predicts the other.",
    )
    keep: str = choice_field(
        "central",
        KEEP,
        "Keep the central heads, which others lead to, or the heads unlike the others. By CKA, central costs "
        "far less accuracy before training.",
    )
    teleport: float = option_field(
        0.15, 0.0, 1.0, "Share of the steps that go to any head alike; 0 needs a graph of one piece."
    )
    images: int = option_field(64, 1, 4096, "Calibration images the similarity is averaged over.")


def rank_heads(
    model: ViT, batches: Batches, options: GraphOptions | None = None
) -> tuple[Float[Tensor, " H"], ...]:
    """A score for every head, per block; what scores low goes first.

    H pi, the stationary mass over that of an even spread, so that scores of blocks with different
    numbers of heads compare [ours]; its negative where the distinct heads stay [ours].

    Raises:
        ValueError: no images, or a chain without a single stationary distribution.
    """
    options = options or GraphOptions()
    sign = 1 if options.keep == "central" else -1
    graphs = similarities(model, batches, options.similarity)
    return tuple(sign * stationary_mass(weights, options.teleport) for weights in graphs)


def stationary_mass(weights: Float[Tensor, "H H"], teleport: float) -> Float[Tensor, " H"]:
    """H pi: how much of its time the walk spends at each head of a block, where an even share is 1.

    A block without heads has no values.

    Raises:
        ValueError: a chain without a single stationary distribution.
    """
    if not len(weights):
        return torch.zeros(0, dtype=torch.float64)
    return len(weights) * stationary(transition(weights, teleport))


def head_graph_scores(model: ViT, batches: Batches, options: GraphOptions) -> Scores:
    """GOHSP's ranking as a criterion of its own, for heads only; all other scores are zero.

    Raises:
        ValueError: as `rank_heads`.
    """
    return heads_only(model.arch, rank_heads(model, batches, options))


def counts_together(scores: Sequence[Float[Tensor, " parts"]], keep: int) -> tuple[int, ...]:
    """Parts left in each block when `keep` of all stay: the highest scores of one ranking over all blocks.

    Every block that has any keeps its best. Of equal scores the earlier block's, the lower part, stays.

    Raises:
        ValueError: fewer than one part a block, or more than there are.
    """
    counts = [min(len(block), 1) for block in scores]
    total, least = sum(len(block) for block in scores), sum(counts)
    if not least <= keep <= total:
        raise ValueError(f"of {total} parts in {least} blocks {least} to {total} can stay, got {keep}")
    # every block's best is in already; the others stand in line
    line = [
        (-value, index)
        for index, block in enumerate(scores)
        for value in block.sort(descending=True).values[1:].tolist()
    ]
    for _, index in sorted(line)[: keep - least]:
        counts[index] += 1
    return tuple(counts)
