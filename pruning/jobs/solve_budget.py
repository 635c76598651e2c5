"""What is measured before anything is cut: scores, and what budgets are solved on."""

from __future__ import annotations

from dataclasses import dataclass, replace

from analysis.data import ImageSet
from analysis.measure import cost
from analysis.models import LoadedModel
from analysis.vit import Architecture
from pruning.budget import (
    BUDGETED_STRUCTURES,
    Allocation,
    LatencyTable,
    Sensitivities,
    allocate,
    allocate_latency,
    measure_sensitivities,
    measure_table,
    narrow_by_scores,
    require_reachable,
)
from pruning.criteria import Criterion
from pruning.cut import Scores, cut
from pruning.jobs.inputs import calibration_batches, tracked
from pruning.jobs.prune_job import Job
from pruning.methods import METHODS, Projection
from pruning.progress import Progress, quiet
from pruning.projection import steered


@dataclass(frozen=True)
class Survey:
    """What budgets are solved on, whatever their size; measured once for model, images and method."""

    scores: Scores | None
    sensitivities: Sensitivities


def without_locked(job: Job, loaded: LoadedModel) -> LoadedModel:
    """The model without the heads that are locked to go: what is scored, and where a budget begins.

    Raises:
        ValueError: the locks do not fit the model.
    """
    plan = job.locks.plan(loaded.model.arch)
    return loaded if plan is None else replace(loaded, model=cut(loaded.model, plan))


def score(job: Job, loaded: LoadedModel, calibration: ImageSet, progress: Progress = quiet) -> Scores:
    """Scores of the job's criterion, on as many calibration images as it asks for.

    Raises:
        ValueError: the job's method is a projection, which scores nothing.
    """
    criterion = METHODS[job.method]
    if not isinstance(criterion, Criterion):
        raise ValueError(f"{job.method} gives no scores: it projects instead of choosing")
    images = calibration_batches(job, loaded, calibration, "Scoring", progress)
    return criterion.score(loaded.model, images, job.method_options)


def survey(
    job: Job,
    loaded: LoadedModel,
    calibration: ImageSet,
    progress: Progress = quiet,
    scores: Scores | None = None,
) -> Survey:
    """Measure what the job's budget is solved on. `scores` are reused where already at hand.

    The images are steered towards evenly spread classes [ours]: on photos of a few classes, what late
    blocks do for all the others looks free to remove.

    Raises:
        ValueError: no budget, a method that cannot narrow a single block, or no images.
    """
    method, model, budget = METHODS[job.method], loaded.model, job.budget
    if budget is None:
        raise ValueError("there is nothing to solve: this job has no budget")
    require_narrowing(job.method)
    few = calibration.sample(min(budget.images, len(calibration)), job.seed)
    structures: tuple[str, ...] = BUDGETED_STRUCTURES
    if isinstance(method, Criterion):
        scores = scores or score(job, loaded, calibration, progress)
        narrow, structures = narrow_by_scores(model, scores), method.ranks
    elif isinstance(method, Projection) and method.narrow is not None:
        images = calibration_batches(job, loaded, calibration, "Reading calibration images", progress)
        narrow = method.narrow(model, images, job.method_options)
        few = _others(job, calibration, budget.images)
    share = getattr(job.method_options, "steered", 100) / 100
    images = steered(model, tracked(few, loaded, "Running the dense model", progress), share)
    return Survey(scores, measure_sensitivities(model, images, narrow, structures, progress))


def _others(job: Job, calibration: ImageSet, count: int) -> ImageSet:
    """Calibration images that a projection is not fitted on, which it would flatter; `count` at most.

    Raises:
        ValueError: it is fitted on all there are.
    """
    fitted = int(getattr(job.method_options, "images", 0))
    mixed = calibration.sample(len(calibration), job.seed)  # its beginning is what the method is given
    others = mixed.subset(range(min(fitted, len(mixed)), len(mixed)))
    if not len(others):
        raise ValueError(
            f"a budget needs calibration images besides those that {job.method} is fitted on, but all "
            f"{len(mixed)} are taken: lower its option images, or give more images"
        )
    return others.sample(min(count, len(others)), job.seed)


def require_narrowing(name: str) -> None:
    """Refuse a method that no budget can be solved for.

    Raises:
        ValueError: it is one.
    """
    method = METHODS[name]
    if isinstance(method, Criterion):
        able = bool(set(method.ranks) & set(BUDGETED_STRUCTURES))
    else:
        able = isinstance(method, Projection) and method.narrow is not None
    if not able:
        raise ValueError(
            f"{method.title} cannot narrow a single block, which budgets are solved with: "
            "give ratios, or take another method such as snp"
        )


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
    found: Survey,
    progress: Progress = quiet,
    table: LatencyTable | None = None,
) -> Allocation:
    """Widths for the job's budget; one in ms is timed on this machine, on `table` where already at hand.

    Raises:
        ValueError: no budget, or one out of reach.
    """
    budget = job.budget
    if budget is None:
        raise ValueError("there is nothing to solve: this job has no budget")
    curves = found.sensitivities
    if budget.kind != "ms":
        lean = job.counted(dense)
        # a budget that the lean model already meets is met within 2 % by the one with all tokens
        begin = dense if budget.kind == "gmacs" and cost(lean).gmacs <= budget.asked else lean
        return allocate(begin, curves, budget, job.align)
    table = table or measure_table(dense, budget.batch, job.align, progress)
    return allocate_latency(dense, curves, budget, table, job.align, progress=progress)
