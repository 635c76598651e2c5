"""How long a recovery takes: as long as the last one like it, or a guess from forward passes."""

from __future__ import annotations

from math import ceil

import torch

from analysis.data import open_training
from analysis.models import LoadedModel
from app import wording
from app.state import measured, memo, session, session_runs
from app.state.session import Choice
from pruning.jobs import RecoverJob

# The demo's, on 2048 images with one thread, took 29 ms of processor time an image where forward passes in a
# batch of 8 took 5.5 (student) and 7.7 ms (teacher): 1.2 times what is counted here.
SPREAD = 0.8, 2.0  # how far a guess may be off [ours]
BACKWARD = 3  # forward passes that a training step of the student takes


def words(job: RecoverJob) -> str:
    """About how long a recovery takes, and how that is known.

    Raises:
        ValueError: a model or the images cannot be loaded.
    """
    wanted = session_runs.lasting(job, copy=False)
    last = next((run for run in session_runs.listed() if run.state == "done" and run.job == wanted), None)
    if last is not None:
        return f"About {wording.duration(last.seconds)}, as the last time."
    if torch.cuda.is_available():
        return "How long it takes on this machine's GPU is said once it is at work."
    student = session.model(Choice(job.model))
    teacher = session.model(Choice(job.teacher, job.teacher_weights, reading=job.reading))
    images, tested = _images(job, student)
    epochs = job.recovery.epochs
    seen = epochs * (min(job.recovery.images, images) or images)
    tested = min(job.limit or tested, tested)
    small, dense = (measured.image_seconds_in_batches(one) for one in (student, teacher))
    seconds = seen * (BACKWARD * small + dense)
    seconds += tested * (dense + (1 + ceil(epochs / job.recovery.test_every)) * small)
    between = wording.duration_between(*(seconds * factor for factor in SPREAD))
    return f"Roughly {between} for {wording.count(seen)} images, a guess from the time of a few images here."


def _images(job: RecoverJob, student: LoadedModel) -> tuple[int, int]:
    """The numbers of training and of test images."""
    classes = student.model.arch.num_classes

    def count() -> tuple[int, int]:
        train, tested = open_training(job.data, student.preprocess, classes, job.test_data)
        return len(train), len(tested)

    key = job.data, job.test_data, student.preprocess.image_size, classes
    return memo.remember("training images", key, count)
