"""How long a recovery takes: as long as the last one like it, or a guess from one forward pass."""

from __future__ import annotations

import torch

from analysis.data import open_training
from analysis.models import LoadedModel
from app import wording
from app.state import measured, memo, session, session_runs
from app.state.session import Choice
from pruning.jobs import RecoverJob

SPREAD = 0.7, 2.5  # how far a guess may be off [ours]
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
    images = _training_images(job, student)
    seen = job.recovery.epochs * (min(job.recovery.images, images) or images)
    seconds = seen * (BACKWARD * measured.image_seconds(student) + measured.image_seconds(teacher))
    between = wording.duration_between(*(seconds * factor for factor in SPREAD))
    return f"Roughly {between} for {wording.count(seen)} images, a guess from the time of one image here."


def _training_images(job: RecoverJob, student: LoadedModel) -> int:
    classes = student.model.arch.num_classes
    key = job.data, job.test_data, student.preprocess.image_size, classes
    return memo.remember(
        "training images",
        key,
        lambda: len(open_training(job.data, student.preprocess, classes, job.test_data)[0]),
    )
