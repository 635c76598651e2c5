"""Criteria: what each part of a model is worth. One registry, `CRITERIA`.

Every criterion scores query-key pairs, value neurons, MLP neurons, heads and channels of the
residual stream; `ranks` says which of them its scores can tell apart.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from analysis.anatomy import STRUCTURES
from analysis.measure import Batches
from analysis.vit import Architecture, ViT
from pruning.criteria.head_graph import GraphOptions, head_graph_scores
from pruning.criteria.magnitude import MagnitudeOptions, NoOptions, SeedOptions, gm, l1, l2, random
from pruning.criteria.snp import SnpOptions, snp, snp_reversed
from pruning.criteria.taylor import LossOptions, ablation, taylor
from pruning.cut import Scores
from pruning.options import Options


@dataclass(frozen=True)
class Criterion:
    """A registry entry: the scoring function, its options, and one sentence for the interface.

    `ranks` names the structures it can rank; its scores of all others are constant.
    """

    score: Callable[[ViT, Batches, Any], Scores]
    options: type[Options]
    title: str
    explanation: str
    ranks: tuple[str, ...] = STRUCTURES

    def require_ranked(self, dense: Architecture, target: Architecture) -> None:
        """Refuse a target that narrows what this criterion cannot rank.

        Raises:
            ValueError: it does.
        """
        lost = [name for name in _narrowed(dense, target) if name not in self.ranks]
        if lost:
            raise ValueError(
                f"{self.title} ranks {', '.join(self.ranks)} only and cannot choose what goes of "
                f"{', '.join(lost)}: set these ratios to 0, or take another method"
            )


CRITERIA: dict[str, Criterion] = {
    "snp": Criterion(
        snp,
        SnpOptions,
        "SNP",
        "Keeps the query-key pairs that carry the attention scores, and neurons unlike their neighbours.",
    ),
    "l1": Criterion(
        l1,
        MagnitudeOptions,
        "L1 magnitude",
        "Keeps the parts with the largest absolute weights, in their own rows or in all that goes with them.",
    ),
    "l2": Criterion(
        l2,
        MagnitudeOptions,
        "L2 magnitude",
        "Keeps the parts with the largest weight norms, of their own rows or of all that goes with them.",
    ),
    "gm": Criterion(
        gm,
        NoOptions,
        "Geometric median",
        "Drops the parts whose weights lie nearest to all the others', as these can stand in for them.",
    ),
    "taylor": Criterion(
        taylor,
        LossOptions,
        "Taylor",
        "Keeps the parts whose removal would change the loss most, by its gradient. It needs labelled "
        "images, except for a model without a classifier.",
    ),
    "ablation": Criterion(
        ablation,
        LossOptions,
        "Head ablation",
        "Switches off one head at a time and keeps those the loss misses most; it ranks heads only.",
        ranks=("heads",),
    ),
    "head-graph": Criterion(
        head_graph_scores,
        GraphOptions,
        "Head graph",
        "Ranks heads only, by a walk over the graph of how alike they are (symmetric, except by "
        "predictability: the walk then adds nothing to the plain degree).",
        ranks=("heads",),
    ),
    "random": Criterion(random, SeedOptions, "Random", "Keeps a random choice: the floor to beat."),
    "snp-reversed": Criterion(
        snp_reversed,
        SnpOptions,
        "SNP reversed",
        "Drops what SNP would keep: a control that should do worse than a random choice.",
    ),
}


def _narrowed(dense: Architecture, target: Architecture) -> list[str]:
    """Structures of which the target has less than the dense model."""
    pairs = list(zip(dense.blocks, target.blocks, strict=True))
    names = [
        name
        for name in STRUCTURES
        if name != "embed" and any(getattr(after, name) < getattr(before, name) for before, after in pairs)
    ]
    return names + ["embed"] * (target.embed_dim < dense.embed_dim)
