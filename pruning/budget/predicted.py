"""Budgets in milliseconds of a device that is not at hand: solved on its table, and predicted.

The smaller model cannot be timed there, so what it takes is the dense model's time less what its blocks
save by the table, corrected by the whole models that were timed on the device [ours].
"""

from __future__ import annotations

from analysis.vit import Architecture
from pruning.budget.allocate import Allocation, Budget, apply, choose, require_reachable
from pruning.budget.curves import Sensitivities
from pruning.budget.latency_menu import LatencyTable, best_start, latency_starts


def allocate_predicted(
    dense: Architecture, sensitivities: Sensitivities, budget: Budget, table: LatencyTable, align: int = 8
) -> Allocation:
    """Widths that are predicted to meet a budget in ms on the table's device, for little predicted damage.

    Raises:
        ValueError: another kind of budget, or one out of reach.
    """
    if budget.ms is None or budget.batch != table.batch:
        raise ValueError(f"this table was measured for budgets in ms at batch {table.batch}, got {budget}")
    begins = latency_starts(dense, sensitivities, table, align, budget.tokens, budget.depth)
    lowest, highest = min(one.menu.lowest for one in begins), max(one.menu.dense for one in begins)
    require_reachable(budget, table.left(table.model - lowest), highest)
    low, high = lowest, highest  # of the sum of blocks; the prediction rises with it
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if table.left(table.model - middle) <= budget.ms else (low, middle)
    start, _, menu = best_start(begins, low)
    taken = choose(menu, low)
    left = menu.dense - sum(item.savings[place] for item, place in zip(menu.items, taken, strict=True))
    arch = apply(start, menu, taken)
    return Allocation(arch, budget, table.left(table.model - left), sensitivities.loss(arch), table.device)
