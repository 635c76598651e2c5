"""Carrying out a pruning job: `prune`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace

from analysis.data import ImageSet, open_training
from analysis.measure import Evaluation, evaluate
from analysis.models import LoadedModel
from analysis.vit import Architecture, ViT
from pruning.budget import Allocation
from pruning.bundle import rounded
from pruning.cut import Scores, kept_heads
from pruning.jobs.inputs import Prepared, load_dense, prepare, require_classifier
from pruning.jobs.prune_job import Job
from pruning.jobs.prune_result import PruneResult
from pruning.jobs.recover import unless_harmed
from pruning.jobs.solve_budget import solve, time_widths
from pruning.jobs.survey import surveyed
from pruning.methods import METHODS, Made, require_narrowing
from pruning.progress import Progress, as_monitor, quiet
from pruning.tracked import tracked
from pruning.training import read_recovery, recover

NOTHING = "nothing to remove: set at least one ratio above 0, or name a preset or a budget"
ROUGH_IMAGES = 64  # calibration images of a rough try


def prune(
    job: Job,
    *,
    dense: LoadedModel | None = None,
    before: Evaluation | None = None,
    dtype: str | None = None,
    progress: Progress = quiet,
) -> PruneResult:
    """Score, select, cut and evaluate.

    The dense model and its evaluation `before` are reused where they are at hand. The smaller model is
    rounded to `dtype`, one of `DTYPES`, before it is evaluated; None keeps the precision of the dense
    model's file.

    Raises:
        ValueError: bad input of any kind, each in one sentence.
    """
    began = time.perf_counter()
    run = _prepared(job, dense, progress)
    allocation, scores = _allocated(run) if job.budget else (None, None)
    made = make_smaller(run, allocation.arch if allocation else None, scores)
    pruned = replace(run.dense, model=made.model, name=f"{run.dense.name}, {job.method}")
    pruned = rounded(pruned, dtype, run.monitor)
    if before is None or before.labels != tuple(run.test.label(i) for i in range(len(run.test))):
        before = _evaluated(run, run.dense, "Evaluating the dense model")
    after, start = _evaluated(run, pruned, "Evaluating the pruned model"), None
    if job.recovery is not None:
        reached = {"top1_dense": before.top1, "top1": after.top1}
        start, recovered = after, rounded(_recover(run, pruned, reached), dtype, run.monitor)
        after = _evaluated(run, recovered, "Evaluating the recovered model")
        pruned, after = unless_harmed((pruned, start), (recovered, after), run.monitor)
    seconds = time.perf_counter() - began
    heads = kept_heads(made.plan or made.heads, run.dense.model.arch, pruned.model.arch)
    tested = run.test.names_id()
    return PruneResult(
        job, run.dense, pruned, made.plan, before, after, seconds, allocation, start, heads, tested
    )


def _prepared(job: Job, dense: LoadedModel | None, progress: Progress) -> Prepared:
    if job.removes_nothing:
        raise ValueError(NOTHING)  # before a model is loaded
    dense = dense or load_dense(job)
    require_feasible(job, dense)
    return prepare(job, as_monitor(progress), dense)


def require_feasible(job: Job, dense: LoadedModel) -> None:
    """Refuse a job of which it is known without reading an image that it cannot be carried out.

    Raises:
        ValueError: it removes nothing, asks of its method what that cannot do, or does not fit the model.
    """
    require_classifier(dense)
    if job.budget is not None:
        require_narrowing(METHODS[job.method])
    elif job.removes_nothing or job.target(dense.model.arch) == dense.model.arch:
        raise ValueError(NOTHING)


def _allocated(run: Prepared) -> tuple[Allocation, Scores | None]:
    """Widths for the job's budget, and the scores that were measured on the way, if any."""
    begin = run.task.start.model.arch
    table = time_widths(run.job, begin, run.monitor)  # out of reach is said now, not after minutes
    found = surveyed(run)
    return solve(run.job, begin, found.sensitivities, run.monitor, table), found.scores


def make_smaller(run: Prepared, target: Architecture | None = None, scores: Scores | None = None) -> Made:
    """The smaller model, and how it was chosen. `target` and `scores` are reused where they are known.

    Raises:
        ValueError: the method cannot do what the job asks for.
    """
    if target is None and run.job.budget is not None:
        allocation, scores = _allocated(run)
        target = allocation.arch
    target = target or run.job.target(run.dense.model.arch)
    made = run.method.make(run.task, _computing_as_dense(run, target), scores)
    made.model.arch = replace(made.model.arch, skip_unread=target.skip_unread)
    return made


def preview(run: Prepared, target: Architecture, scores: Scores | None = None) -> ViT:
    """A model that predicts what the job would make: masked, or made on few images and without training.

    Raises:
        ValueError: the method cannot do what the job asks for.
    """
    return run.method.preview(run.task.quick(ROUGH_IMAGES), _computing_as_dense(run, target), scores)


def _computing_as_dense(run: Prepared, target: Architecture) -> Architecture:
    """The target's widths, computing the tokens that the dense model does: widths are cut from it."""
    return replace(target, skip_unread=run.dense.model.arch.skip_unread)


def _evaluated(run: Prepared, loaded: LoadedModel, what: str) -> Evaluation:
    return evaluate(loaded.model, tracked(run.test, loaded, what, run.monitor))


def _recover(run: Prepared, pruned: LoadedModel, known: Mapping[str, float]) -> LoadedModel:
    job, dense = run.job, run.dense
    settings = read_recovery(job.recovery or ())
    return recover(pruned, dense, _to_learn_from(run), run.test, settings, job.seed, run.monitor, known)


def _to_learn_from(run: Prepared) -> ImageSet:
    job, classes = run.job, run.dense.model.arch.num_classes
    other = job.data if job.calibration else None
    return open_training(job.calibration or job.data, run.dense.preprocess, classes, other)[0]
