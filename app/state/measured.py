"""Measurements kept for the session: baseline accuracy, scores, sensitivities, width times."""

from __future__ import annotations

from dataclasses import astuple, replace

from analysis.measure import Evaluation, evaluate
from analysis.vit import Architecture
from app.state.memo import recall, remember
from app.state.session import choice, model, test_images
from pruning.budget import Budget, LatencyTable, measure_table
from pruning.criteria import Criterion
from pruning.cut import HeadLocks, Scores
from pruning.jobs import Job, Survey, image_sets, require_classifier, score, survey, tracked, without_locked
from pruning.methods import METHODS
from pruning.progress import Progress


def baseline(progress: Progress | None = None) -> Evaluation | None:
    """Accuracy of the loaded model on the test images; measured if `progress` is given.

    Raises:
        ValueError: no images are chosen, or one cannot be read.
    """
    chosen = choice()
    if progress is None:
        found: Evaluation | None = recall("baseline", chosen)
        return found
    require_classifier(model())
    loaded, test = model(), test_images()
    return remember(
        "baseline",
        chosen,
        lambda: evaluate(loaded.model, tracked(test, loaded, "Evaluating the dense model", progress)),
    )


def keep_baseline(job: Job, result: Evaluation) -> None:
    """Keep what a run measured, if it is the accuracy of the loaded model on the test images chosen."""
    chosen = choice()
    if (job.model, job.weights, job.data, job.limit) == astuple(chosen) and not (
        job.trains or job.calibration
    ):
        remember("baseline", chosen, lambda: result)


def scores(job: Job, progress: Progress) -> Scores:
    """Importance by the job's method, of what the locks leave; computed once, whatever is then removed."""
    key = _measured_alike(job, None)
    calibration, _ = image_sets(job, model())
    make = lambda: score(job, without_locked(job, model()), calibration, progress)
    return remember("scores", key, make, keep=8)


def _measured_alike(job: Job, budget: Budget | None) -> Job:
    """The job without all that plays no part in what is measured before anything is cut."""
    locks = HeadLocks(remove=job.locks.remove)
    job = replace(job, ratios=Job.ratios, preset=None, heads_by=None, budget=budget, align=1, limit=None)
    return replace(job, compensate=False, recovery=None, locks=locks, skip_unread=False)


def surveyed(job: Job, progress: Progress | None = None) -> Survey | None:
    """What budgets are solved on by the job's method, whatever their size; measured if `progress` is given.

    Raises:
        ValueError: the method takes no budget, or no images are chosen.
    """
    budget = Budget(gmacs=1.0, images=job.budget.images if job.budget else Budget.images)
    key = _measured_alike(job, budget)
    if progress is None:
        found: Survey | None = recall("survey", key)
        return found
    require_classifier(model())
    calibration, _ = image_sets(job, model())
    known = scores(job, progress) if isinstance(METHODS[job.method], Criterion) else None
    make = lambda: survey(job, without_locked(job, model()), calibration, progress, known)
    return remember("survey", key, make, keep=8)


def width_times(arch: Architecture, batch: int, align: int, progress: Progress) -> LatencyTable:
    """Milliseconds of a model's blocks by width on this machine, timed once."""
    make = lambda: measure_table(arch, batch, align, progress)
    return remember("width times", (arch, batch, align), make, keep=8)
