"""Measurements kept for the session: baseline accuracy, sensitivities, width times."""

from __future__ import annotations

import time

import torch

from analysis.measure import Evaluation, Timing, bench, torch_runner
from analysis.models import LoadedModel
from analysis.vit import Architecture
from app.state.finished_runs import OpenedRun
from app.state.memo import recall, remember
from app.state.session import Choice, choice, model, test_set
from pruning.budget import LatencyTable
from pruning.evaluation import evaluate_model
from pruning.jobs import Job, Prepared, SurveyJob, kept_survey, prepare
from pruning.jobs import width_times as time_blocks
from pruning.methods import Survey
from pruning.progress import Progress, as_monitor, quiet

_ROUNDS = 9  # of a quick timing; the fewest that give an interval are six
_BATCH, _SMALL = 8, 0.05  # images of a batch, and the seconds for one beyond which more gain nothing


def baseline(progress: Progress | None = None) -> Evaluation | None:
    """Accuracy of the loaded model on the test images; measured if `progress` is given.

    Raises:
        ValueError: no images are chosen, or one cannot be read.
    """
    chosen = choice()
    if progress is None:
        found: Evaluation | None = recall("baseline", chosen)
        return found
    loaded, tested = model(), test_set()
    return remember(
        "baseline",
        chosen,
        lambda: evaluate_model(loaded, tested, "Evaluating the dense model", progress),
    )


def keep_baseline(job: Job, result: Evaluation) -> None:
    """Keep what a run measured, if it is the accuracy of the loaded model on the test images chosen."""
    chosen = choice()
    of_job = Choice(job.model, job.weights, job.data, job.limit or 0, job.reading)
    if of_job == chosen and not (job.trains or job.calibration):
        remember("baseline", chosen, lambda: result)


def prepared(job: Job, progress: Progress = quiet) -> Prepared:
    """What the steps of a run share, with the loaded model.

    Raises:
        ValueError: the images cannot be read, or do not fit the model.
    """
    return prepare(job, as_monitor(progress), model())


def calibration_count(job: Job) -> int:
    """How many calibration images there are.

    Raises:
        ValueError: the images cannot be read.
    """
    key = (choice(), job.calibration)
    return remember("calibration images", key, lambda: len(prepared(job).calibration), keep=4)


def survey(job: Job) -> Survey | None:
    """What budgets are solved on by the job's method, whatever their size; None if it is not measured yet.

    Raises:
        ValueError: the method takes no budget, or the images cannot be read.
    """
    key = SurveyJob.of(job, model().model.arch)
    found: Survey | None = recall("survey", key)
    if found is None:
        found = kept_survey(prepared(job))
        if found is not None:
            remember("survey", key, lambda: found, keep=8)
    return found


def width_times(job: Job, arch: Architecture, progress: Progress) -> LatencyTable:
    """Milliseconds of a model's blocks by width, on this machine or on the job's device; timed once.

    Raises:
        ValueError: the device's file is damaged or of another model.
    """
    batch = job.budget.batch if job.budget else 1
    key = arch, batch, job.align, job.runtime, job.device
    return remember("width times", key, lambda: time_blocks(job, arch, progress), keep=8)


def image_seconds(loaded: LoadedModel) -> float:
    """Seconds that a model takes for an image, timed once on one of zeros."""
    return remember("seconds an image", loaded, lambda: _seconds(loaded, 1), keep=4)


def image_seconds_in_batches(loaded: LoadedModel) -> float:
    """The same in a batch, which takes a small model much less for each of its images."""
    alone = image_seconds(loaded)
    if alone > _SMALL:
        return alone
    seconds = remember("seconds a batch", loaded, lambda: _seconds(loaded, _BATCH), keep=4)
    return min(alone, seconds / _BATCH)


def _seconds(loaded: LoadedModel, batch: int) -> float:
    """Seconds of the second forward pass: the first one takes longer."""
    arch = loaded.model.arch
    images = torch.zeros(batch, arch.in_channels, *arch.image_size)
    with torch.inference_mode():
        loaded.model(images)
        began = time.perf_counter()
        loaded.model(images)
    return time.perf_counter() - began


def latency(run: OpenedRun, *, measure: bool = False) -> Timing | None:
    """How much faster a run's model is for one image on this machine; None unless it was measured."""
    if not measure:
        known: Timing | None = recall("latency", run.run.folder)
        return known
    arch = run.dense.model.arch
    shape = arch.in_channels, *arch.image_size
    small, dense = torch_runner(run.pruned.model), torch_runner(run.dense.model)
    make = lambda: bench(small, dense, shape, (1,), rounds=_ROUNDS, looks=1, warmup=2)[1]
    return remember("latency", run.run.folder, make)
