"""Widths for a budget: how sensitive the model is to each, and what to give up where."""

from analysis.outputs import kl_divergence
from pruning.budget.allocate import (
    BUDGET_UNITS,
    Allocation,
    Budget,
    Point,
    align_of,
    allocate,
    amount,
    candidates,
    require_reachable,
    trade_off,
    widths_on_grid,
)
from pruning.budget.curves import (
    BUDGETED_STRUCTURES,
    HalfLoss,
    MergeLoss,
    Narrow,
    Sensitivities,
    dense_curves,
)
from pruning.budget.expected import KnownChange, expected_change, predicted_damage
from pruning.budget.latency import allocate_latency, measure_table
from pruning.budget.latency_menu import FEWER, LatencyTable, halves_alone, merged_alone, saved_by_blocks
from pruning.budget.predicted import allocate_predicted
from pruning.budget.sensitivity import (
    measure_sensitivities,
    measured_widths,
    narrow_by_scores,
)
from pruning.budget.tokens import measure_schedules, schedule, schedules

__all__ = [
    "BUDGETED_STRUCTURES",
    "BUDGET_UNITS",
    "FEWER",
    "Allocation",
    "Budget",
    "HalfLoss",
    "KnownChange",
    "LatencyTable",
    "MergeLoss",
    "Narrow",
    "Point",
    "Sensitivities",
    "align_of",
    "allocate",
    "allocate_latency",
    "allocate_predicted",
    "amount",
    "candidates",
    "dense_curves",
    "expected_change",
    "halves_alone",
    "kl_divergence",
    "measure_schedules",
    "measure_sensitivities",
    "measure_table",
    "measured_widths",
    "merged_alone",
    "narrow_by_scores",
    "predicted_damage",
    "require_reachable",
    "saved_by_blocks",
    "schedule",
    "schedules",
    "trade_off",
    "widths_on_grid",
]
