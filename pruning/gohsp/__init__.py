"""GOHSP: rank heads with a graph, train towards the pruned structure by ADMM, and cut."""

from pruning.gohsp.method import GohspOptions, TrainingData, gohsp, gohsp_target

__all__ = ["GohspOptions", "TrainingData", "gohsp", "gohsp_target"]
