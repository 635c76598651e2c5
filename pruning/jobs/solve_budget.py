"""Solving a job's budget on what was measured of its model."""

from __future__ import annotations

from pathlib import Path

from analysis.measure import cost
from analysis.vit import Architecture
from pruning.budget import (
    Allocation,
    Budget,
    LatencyTable,
    Sensitivities,
    allocate,
    allocate_latency,
    allocate_predicted,
    candidates,
    measure_table,
    require_reachable,
)
from pruning.jobs.prune_job import Job
from pruning.kit import OnnxClock, measure_onnx_table, read_device
from pruning.progress import Progress, quiet


def time_widths(job: Job, dense: Architecture, progress: Progress = quiet) -> LatencyTable | None:
    """For a budget in ms the times of blocks, on this machine or on the job's device; None for others.

    Raises:
        ValueError: the budget is out of reach, whatever is most sensitive, or the device's file is of no use.
    """
    if job.budget is None or job.budget.kind != "ms":
        return None
    table = width_times(job, dense, progress)
    require_reachable(job.budget, table.lowest(dense), table.model)
    return table


def width_times(job: Job, dense: Architecture, progress: Progress = quiet) -> LatencyTable:
    """The times of blocks that a budget in ms is solved on.

    Raises:
        ValueError: there is no budget, or the device's file is damaged or of another model.
    """
    batch, int8 = required_budget(job).batch, job.runtime == "onnx-int8"
    if job.device is not None:
        return read_device(Path(job.device)).table(dense, batch, int8)
    if job.runtime in (None, "torch"):
        return measure_table(dense, batch, job.align, progress)
    return measure_onnx_table(dense, batch, job.align, int8, progress)


def solve(
    job: Job,
    dense: Architecture,
    sensitivities: Sensitivities,
    progress: Progress = quiet,
    table: LatencyTable | None = None,
) -> Allocation:
    """Widths for the job's budget. One in ms is solved on `table` where it is at hand.

    It is then timed on this machine by the job's runtime, or predicted for its device.

    Raises:
        ValueError: no budget, or one out of reach, or the device's file is of no use.
    """
    budget = required_budget(job)
    if budget.kind != "ms":
        return allocate(_begin(job, dense, budget), sensitivities, budget, job.align)
    table = table or width_times(job, dense, progress)
    if job.device is not None:
        return allocate_predicted(dense, sensitivities, budget, table, job.align)
    onnx = job.runtime not in (None, "torch")
    measure = OnnxClock(dense, table, job.runtime == "onnx-int8") if onnx else None
    return allocate_latency(dense, sensitivities, budget, table, job.align, measure, progress)


def solve_all(
    job: Job,
    dense: Architecture,
    sensitivities: Sensitivities,
    progress: Progress = quiet,
    table: LatencyTable | None = None,
) -> tuple[Allocation, ...]:
    """The best few of what `solve` weighs, the best first; one alone for a budget in ms.

    Raises:
        ValueError: as `solve`.
    """
    budget = required_budget(job)
    if budget.kind == "ms":
        return (solve(job, dense, sensitivities, progress, table),)
    return candidates(_begin(job, dense, budget), sensitivities, budget, job.align)


def _begin(job: Job, dense: Architecture, budget: Budget) -> Architecture:
    """The model that is narrowed: the lean one, unless that meets a budget of GMACs as it is."""
    lean = job.without_unread(dense)
    return dense if budget.kind == "gmacs" and cost(lean).gmacs <= budget.asked else lean


def required_budget(job: Job) -> Budget:
    """The job's budget.

    Raises:
        ValueError: it has none.
    """
    if job.budget is None:
        raise ValueError("there is nothing to solve: this job has no budget")
    return job.budget
