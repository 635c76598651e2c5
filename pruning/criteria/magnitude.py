"""Criteria that look at weight rows alone, and random scores."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from analysis.measure import Batches
from analysis.vit import ViT
from pruning.criteria.row_scores import by_rows
from pruning.cut import Scores
from pruning.options import Options, option_field


@dataclass(frozen=True)
class NoOptions(Options):
    """For criteria with nothing to set."""


@dataclass(frozen=True)
class SeedOptions(Options):
    """A seed for random scores."""

    seed: int = option_field(0, 0, 2**31 - 1, "Another seed draws another random choice.")


def l1(model: ViT, batches: Batches, options: NoOptions) -> Scores:
    """Magnitude by absolute sum of a part's weight rows (Li et al. 2017)."""
    return by_rows(model, lambda weight: weight.abs().sum(dim=-1))


def l2(model: ViT, batches: Batches, options: NoOptions) -> Scores:
    """Magnitude by Euclidean norm of a part's weight rows (Li et al. 2017)."""
    return by_rows(model, lambda weight: weight.norm(dim=-1))


def gm(model: ViT, batches: Batches, options: NoOptions) -> Scores:
    """Geometric median (FPGM; He et al. 2019): rows near all the others are replaceable and go first."""
    return by_rows(model, total_distance)


def total_distance(weight: Float[Tensor, "rows columns"]) -> Float[Tensor, " rows"]:
    """Sum over all rows l of the Euclidean distance |W_i - W_l| (He et al. 2019)."""
    rows = weight.double()  # distances by a matrix product cancel digits: in float32 too many
    distances = torch.cdist(rows, rows, compute_mode="use_mm_for_euclid_dist")
    return distances.fill_diagonal_(0).sum(dim=-1).to(weight.dtype)


def random(model: ViT, batches: Batches, options: SeedOptions) -> Scores:
    """Uniform random scores: the floor every criterion has to beat."""
    generator = torch.Generator().manual_seed(options.seed)
    return by_rows(model, lambda weight: torch.rand(len(weight), generator=generator))
