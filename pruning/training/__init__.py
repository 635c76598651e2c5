"""Fine-tuning: the loop, recipes, objectives, distillation, checkpoints."""

from pruning.training.checkpoint import CHECKPOINTS
from pruning.training.distillation import (
    RECIPES,
    Distillation,
    Recovery,
    option_words,
    read_recovery,
    recover,
    recovery_options,
    require_pair,
)
from pruning.training.objective import Objective, bare
from pruning.training.recipe import batch_size
from pruning.training.train import train

__all__ = [
    "CHECKPOINTS",
    "RECIPES",
    "Distillation",
    "Objective",
    "Recovery",
    "bare",
    "batch_size",
    "option_words",
    "read_recovery",
    "recover",
    "recovery_options",
    "require_pair",
    "train",
]
