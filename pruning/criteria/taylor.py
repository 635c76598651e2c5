"""Criteria that ask the loss what a part is worth: first-order Taylor, and head ablation.

Both think of a gate on every part (`analysis.gates`): 1 leaves the model as it is, 0 takes the part out
exactly as surgery does. Taylor measures how the loss begins to change as a gate closes, ablation closes it.
The loss is the cross-entropy of the calibration images' labels; without a classifier, how far the features
move.
"""

from __future__ import annotations

from dataclasses import dataclass

from analysis.anatomy import STRUCTURES
from analysis.heads import ablation as ablated
from analysis.heads import gate_slopes
from analysis.measure import Batches
from analysis.vit import ViT
from pruning.cut import Scores, heads_only
from pruning.options import ImageOptions, option_field


@dataclass(frozen=True)
class LossOptions(ImageOptions):
    """Settings of the criteria that measure the loss."""

    images: int = option_field(64, 1, 4096, "Calibration images with labels that the loss is measured on.")


def taylor(model: ViT, batches: Batches, options: LossOptions) -> Scores:
    """First-order Taylor of every part (`analysis.heads.gate_slopes`).

    Which gate stands for a pair, a value channel and a residual channel is [ours]: see `Gates`.

    Raises:
        ValueError: no calibration images.
    """
    found = gate_slopes(model, batches, STRUCTURES)
    return Scores(found.qk, found.v, found.mlp, found.heads, found.embed[0])


def ablation(model: ViT, batches: Batches, options: LossOptions) -> Scores:
    """Head ablation (`analysis.heads.ablation`) as a criterion; it ranks heads only, all else is zero.

    Raises:
        ValueError: no calibration images.
    """
    return heads_only(model.arch, ablated(model, batches))
