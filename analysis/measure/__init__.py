"""Measures of a model: parameters, MACs, latency, accuracy with its interval, calibration, confusion."""

from analysis.measure.confidence import BINS, Bin, ece, reliability
from analysis.measure.confusion import PairChange, confusion, confusion_changes
from analysis.measure.cost import BlockCost, Cost, PartCost, block_cost, cost
from analysis.measure.evaluate import (
    CLASSES,
    KNN,
    NEIGHBOURS,
    Agreement,
    Batches,
    Evaluation,
    Fidelity,
    Likeness,
    agreement,
    evaluate,
    wilson,
)
from analysis.measure.features import evaluate_features, evaluate_vectors, linear_cka
from analysis.measure.latency import (
    MOST_BATCH,
    MOST_ROUNDS,
    Runner,
    Times,
    bench,
    require_bounds,
    take_turns,
    torch_runner,
)
from analysis.measure.paired import PairedChange, change_of_counts, paired_change
from analysis.measure.pareto import front
from analysis.measure.speedup import (
    LOOKS,
    NOT_DISTINGUISHABLE,
    UNKNOWN,
    Percentiles,
    Timing,
    compare,
    percentiles,
)

__all__ = [
    "BINS",
    "CLASSES",
    "KNN",
    "LOOKS",
    "MOST_BATCH",
    "MOST_ROUNDS",
    "NEIGHBOURS",
    "NOT_DISTINGUISHABLE",
    "UNKNOWN",
    "Agreement",
    "Batches",
    "Bin",
    "BlockCost",
    "Cost",
    "Evaluation",
    "Fidelity",
    "Likeness",
    "PairChange",
    "PairedChange",
    "PartCost",
    "Percentiles",
    "Runner",
    "Times",
    "Timing",
    "agreement",
    "bench",
    "block_cost",
    "change_of_counts",
    "compare",
    "confusion",
    "confusion_changes",
    "cost",
    "ece",
    "evaluate",
    "evaluate_features",
    "evaluate_vectors",
    "front",
    "linear_cka",
    "paired_change",
    "percentiles",
    "reliability",
    "require_bounds",
    "take_turns",
    "torch_runner",
    "wilson",
]
