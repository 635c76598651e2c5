"""The queue of runs: whose turn it is, and who starts the process of a run when its turn has come."""

from pruning.runs.queue.dispatch import (
    MOST_WAITING,
    drop_from_queue,
    require_short_queue,
    run_dispatcher,
    start_or_queue,
)
from pruning.runs.queue.turns import device, wait_for_slot

__all__ = [
    "MOST_WAITING",
    "device",
    "drop_from_queue",
    "require_short_queue",
    "run_dispatcher",
    "start_or_queue",
    "wait_for_slot",
]
