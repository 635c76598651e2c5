"""Carrying out a job: `prune`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from analysis.data import ImageSet, open_training
from analysis.measure import Evaluation, evaluate
from analysis.models import LoadedModel, load
from analysis.vit import Architecture, ViT
from pruning.budget import Allocation
from pruning.cut import Plan, Scores, cut, kept_heads, select, within_heads
from pruning.jobs.inputs import calibration_batches, image_sets, require_classifier, tracked, training_data
from pruning.jobs.prune_job import Job
from pruning.jobs.prune_result import PruneResult
from pruning.jobs.solve_budget import (
    Survey,
    require_narrowing,
    score,
    solve,
    survey,
    time_widths,
    without_locked,
)
from pruning.methods import METHODS, Projection, Trained
from pruning.progress import Progress, as_monitor, quiet
from pruning.projection import COMPENSATION_IMAGES, compensate
from pruning.training import read_recovery, recover


def make_smaller(
    job: Job,
    loaded: LoadedModel,
    calibration: ImageSet,
    progress: Progress = quiet,
    target: Architecture | None = None,
    scores: Scores | None = None,
    heads: Plan | None = None,
) -> tuple[ViT, Plan | None]:
    """The smaller model, and the plan it was cut by where the method chooses.

    `target`, `scores` and the plan by which `heads` go first are reused where already at hand; a budget
    is solved without them.

    Raises:
        ValueError: the method cannot do what the job asks for.
    """
    if target is None and job.budget is not None:
        begin = without_locked(job, loaded)
        found = survey(job, begin, calibration, progress, scores)
        target, scores = solve(job, begin.model.arch, found, progress).arch, found.scores
    arch = loaded.model.arch
    target = target or job.target(arch)
    # widths are cut from a model that computes what the dense one does
    whole = replace(target, skip_unread=arch.skip_unread)
    small, plan = _cut(job, loaded, calibration, progress, whole, scores, heads)
    small.arch = replace(small.arch, skip_unread=target.skip_unread)
    return small, plan


def _cut(
    job: Job,
    loaded: LoadedModel,
    calibration: ImageSet,
    progress: Progress,
    target: Architecture,
    scores: Scores | None,
    heads: Plan | None,
) -> tuple[ViT, Plan | None]:
    method, dense = METHODS[job.method], loaded.model
    if isinstance(method, Trained):
        images = calibration_batches(job, loaded, calibration, "Ranking heads", progress)
        learned, monitor = training_data(job, loaded), as_monitor(progress)
        ratios = job.removed(dense.arch)
        return method.prune(dense, images, ratios, job.align, job.method_options, learned, monitor, job.locks)
    heads = heads or _heads_first(job, loaded, calibration, target, progress)
    start = loaded if heads is None else replace(loaded, model=cut(dense, heads))
    if isinstance(method, Projection):
        images = calibration_batches(job, loaded, calibration, "Reading calibration images", progress)
        tell, narrowed = partial(progress, "Projecting"), None if heads is None else start.model
        return method.project(dense, images, target, job.method_options, tell, narrowed), None
    method.require_ranked(start.model.arch, target)  # a given target, or a budget's
    if scores is None or job.heads_by:
        scores = score(job, start, calibration, progress)
    plan = choose(job, dense.arch, heads, scores, target)
    small = cut(dense, plan)
    if job.compensate:
        chosen = calibration.sample(min(COMPENSATION_IMAGES, len(calibration)), job.seed)
        images = tracked(chosen, loaded, "Reading calibration images", progress)
        small = compensate(dense, small, images, plan.embed, partial(progress, "Compensating"))
    return small, plan


def choose(job: Job, dense: Architecture, heads: Plan | None, scores: Scores, target: Architecture) -> Plan:
    """What stays by these scores, which are of the model that `heads` leaves if any go first."""
    start = dense if heads is None else heads.architecture(dense)
    plan = select(scores, start, target, job.locks.within(heads))
    return plan if heads is None else within_heads(heads, plan)


def _heads_first(
    job: Job, loaded: LoadedModel, calibration: ImageSet, target: Architecture, progress: Progress
) -> Plan | None:
    """The plan that removes heads alone: those locked to go, and what the job's criterion ranks lowest."""
    if job.heads_by is None:
        return job.locks.plan(loaded.model.arch)
    by = replace(job, method=job.heads_by or job.method, heads_by=None, options=(), compensate=False)
    scores = score(by, loaded, calibration, progress)
    return select(scores, loaded.model.arch, job.heads_only(loaded.model.arch, target), job.locks)


def prune(
    job: Job,
    *,
    dense: LoadedModel | None = None,
    before: Evaluation | None = None,
    found: Survey | None = None,
    allocation: Allocation | None = None,
    progress: Progress = quiet,
) -> PruneResult:
    """Score, select, cut and evaluate.

    The dense model, its evaluation `before`, and for a budget what was `found` on the way to it and its
    `allocation` are reused where already at hand.

    Raises:
        ValueError: bad input of any kind, each in one sentence.
    """
    began = time.perf_counter()
    sparsity = getattr(job.method_options, "sparsity", 0)
    if job.preset is None and job.ratios.removes_nothing and not (job.budget or sparsity or job.locks.remove):
        raise ValueError("nothing to remove: set at least one ratio above 0, or name a preset or a budget")
    dense = dense or load(job.model, Path(job.weights) if job.weights else None)
    require_classifier(dense)
    if job.budget is None:
        job.target(dense.model.arch)  # bad ratios are found before images are read
    else:
        require_narrowing(job.method)
    calibration, test = image_sets(job, dense)
    if job.budget is not None and allocation is None:
        begin = without_locked(job, dense)
        table = time_widths(job, begin.model.arch, progress)  # out of reach is said now, not after minutes
        found = found or survey(job, begin, calibration, progress)
        allocation = solve(job, begin.model.arch, found, progress, table)
    target, heads = allocation.arch if allocation else job.target(dense.model.arch), None
    if isinstance(METHODS[job.method], Projection):
        heads = _heads_first(job, dense, calibration, target, progress)
    known = found.scores if found else None
    small, plan = make_smaller(job, dense, calibration, progress, target, known, heads)
    pruned = replace(dense, model=small, name=f"{dense.name}, {job.method}")
    if before is None or before.labels != tuple(test.label(i) for i in range(len(test))):  # of other images
        before = evaluate(dense.model, tracked(test, dense, "Evaluating the dense model", progress))
    after = evaluate(pruned.model, tracked(test, pruned, "Evaluating the pruned model", progress))
    start = None
    if job.recovery is not None:
        reached = {"top1_dense": before.top1, "top1": after.top1}
        start, pruned = after, _recover(job, pruned, dense, test, progress, reached)
        after = evaluate(pruned.model, tracked(test, pruned, "Evaluating the recovered model", progress))
    seconds = time.perf_counter() - began
    heads_left = kept_heads(plan or heads, dense.model.arch, pruned.model.arch)
    return PruneResult(job, dense, pruned, plan, before, after, seconds, allocation, start, heads_left)


def _recover(
    job: Job,
    pruned: LoadedModel,
    dense: LoadedModel,
    test: ImageSet,
    progress: Progress,
    known: Mapping[str, float],
) -> LoadedModel:
    classes, other = dense.model.arch.num_classes, job.data if job.calibration else None
    images, _ = open_training(job.calibration or job.data, dense.preprocess, classes, other)
    settings = read_recovery(job.recovery or ())
    return recover(pruned, dense, images, test, settings, job.seed, as_monitor(progress), known)
