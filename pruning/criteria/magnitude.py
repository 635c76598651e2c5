"""Criteria that look at weights alone, and random scores.

What they say of query-key pairs and value channels is a property of the coordinates in which a head's
channels are written, not of what the head computes: turning queries and keys by the same orthogonal
matrix, or values by one and `proj` by its inverse, changes no logit, but it changes the norms of single
rows and columns and the distances between rows. Only the L2 norm of a whole head's group stays the same,
and that changes, too, where values are scaled up and `proj` is scaled down.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from analysis.measure import Batches
from analysis.vit import ViT
from pruning.criteria.groups import by_groups
from pruning.criteria.row_scores import by_rows
from pruning.cut import Scores
from pruning.options import Options, option_field, switch_field


@dataclass(frozen=True)
class NoOptions(Options):
    """For criteria with nothing to set."""


@dataclass(frozen=True)
class MagnitudeOptions(Options):
    """Which weights of a part are measured."""

    group: bool = switch_field(
        False,
        "Measure all weights that are removed with a part, as DepGraph does: for a neuron its row of fc1, "
        "its bias and its column of fc2. Off measures only the rows that compute it.",
    )


@dataclass(frozen=True)
class SeedOptions(Options):
    """A seed for random scores."""

    seed: int = option_field(0, 0, 2**31 - 1, "Another seed draws another random choice.")


def l1(model: ViT, batches: Batches, options: MagnitudeOptions) -> Scores:
    """Absolute sum of a part's weight rows (Li et al. 2017), or of its group (Fang et al. 2023).

    Both change with the coordinates of a head's channels, also for whole heads.
    """
    if options.group:
        return by_groups(model, order=1)
    return by_rows(model, lambda weight: weight.abs().sum(dim=-1))


def l2(model: ViT, batches: Batches, options: MagnitudeOptions) -> Scores:
    """Euclidean norm of a part's weight rows (Li et al. 2017), or of its group (Fang et al. 2023).

    Of a group, Torch-Pruning's `GroupMagnitudeImportance` by default leaves out biases, tokens and position
    embeddings, which count here. Norms of single channels change with the coordinates of a head's
    channels, that of a whole head's group does not.
    """
    if options.group:
        return by_groups(model, order=2)
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
