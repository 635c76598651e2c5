"""Measures of a model: parameters, MACs, latency, accuracy with its interval, calibration, confusion."""

from analysis.measure.confidence import BINS, Bin, ece, reliability
from analysis.measure.confusion import PairChange, confusion, confusion_changes
from analysis.measure.cost import BlockCost, Cost, PartCost, cost
from analysis.measure.evaluate import Agreement, Batches, Evaluation, agreement, evaluate, wilson
from analysis.measure.latency import (
    NOT_DISTINGUISHABLE,
    Percentiles,
    Runner,
    Timing,
    bench,
    judge,
    take_turns,
    torch_runner,
)
from analysis.measure.paired import PairedChange, change_of_counts, paired_change
from analysis.measure.pareto import front

__all__ = [
    "BINS",
    "NOT_DISTINGUISHABLE",
    "Agreement",
    "Batches",
    "Bin",
    "BlockCost",
    "Cost",
    "Evaluation",
    "PairChange",
    "PairedChange",
    "PartCost",
    "Percentiles",
    "Runner",
    "Timing",
    "agreement",
    "bench",
    "change_of_counts",
    "confusion",
    "confusion_changes",
    "cost",
    "ece",
    "evaluate",
    "front",
    "judge",
    "paired_change",
    "reliability",
    "take_turns",
    "torch_runner",
    "wilson",
]
