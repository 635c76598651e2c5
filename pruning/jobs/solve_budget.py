"""Solving a job's budget on what was measured of its model."""

from __future__ import annotations

from analysis.measure import cost
from analysis.vit import Architecture
from pruning.budget import (
    Allocation,
    Budget,
    LatencyTable,
    Sensitivities,
    allocate,
    allocate_latency,
    measure_table,
    require_reachable,
)
from pruning.jobs.prune_job import Job
from pruning.progress import Progress, quiet


def time_widths(job: Job, dense: Architecture, progress: Progress = quiet) -> LatencyTable | None:
    """For a budget in ms the times of blocks on this machine; None for others.

    Raises:
        ValueError: the budget is out of reach, whatever is most sensitive.
    """
    if job.budget is None or job.budget.kind != "ms":
        return None
    table = measure_table(dense, job.budget.batch, job.align, progress)
    require_reachable(job.budget, table.lowest(dense), table.model)
    return table


def solve(
    job: Job,
    dense: Architecture,
    sensitivities: Sensitivities,
    progress: Progress = quiet,
    table: LatencyTable | None = None,
) -> Allocation:
    """Widths for the job's budget. One in ms is timed on this machine, on `table` where it is at hand.

    Raises:
        ValueError: no budget, or one out of reach.
    """
    budget = required_budget(job)
    if budget.kind != "ms":
        lean = job.without_unread(dense)
        # a budget that the lean model already meets is met within 2 % by the one with all tokens
        begin = dense if budget.kind == "gmacs" and cost(lean).gmacs <= budget.asked else lean
        return allocate(begin, sensitivities, budget, job.align)
    table = table or measure_table(dense, budget.batch, job.align, progress)
    return allocate_latency(dense, sensitivities, budget, table, job.align, progress=progress)


def required_budget(job: Job) -> Budget:
    """The job's budget.

    Raises:
        ValueError: it has none.
    """
    if job.budget is None:
        raise ValueError("there is nothing to solve: this job has no budget")
    return job.budget
