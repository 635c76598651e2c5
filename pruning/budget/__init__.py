"""Widths for a budget: how sensitive the model is to each, and what to give up where."""

from pruning.budget.allocate import (
    BUDGET_UNITS,
    Allocation,
    Budget,
    allocate,
    amount,
    require_reachable,
    trade_off,
    widths_on_grid,
)
from pruning.budget.curves import BUDGETED_STRUCTURES, Narrow, Sensitivities
from pruning.budget.latency import LatencyTable, allocate_latency, measure_table
from pruning.budget.predicted import allocate_predicted
from pruning.budget.sensitivity import measure_sensitivities, measured_widths, narrow_by_scores

__all__ = [
    "BUDGETED_STRUCTURES",
    "BUDGET_UNITS",
    "Allocation",
    "Budget",
    "LatencyTable",
    "Narrow",
    "Sensitivities",
    "allocate",
    "allocate_latency",
    "allocate_predicted",
    "amount",
    "measure_sensitivities",
    "measure_table",
    "measured_widths",
    "narrow_by_scores",
    "require_reachable",
    "trade_off",
    "widths_on_grid",
]
