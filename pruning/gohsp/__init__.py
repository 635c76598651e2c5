"""GOHSP: heads ranked by a graph, training towards the structure that stays (ADMM), the cut."""

from pruning.gohsp.method import GohspOptions, TrainingData, gohsp, gohsp_target

__all__ = ["GohspOptions", "TrainingData", "gohsp", "gohsp_target"]
