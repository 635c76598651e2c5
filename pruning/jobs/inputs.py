"""What a pruning run reads: its model and images, prepared once and handed down to every step."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from analysis.data import ImageSet, open_data, open_training, require_apart
from analysis.models import LoadedModel, load
from pruning.cut import unmerged, with_architecture
from pruning.evaluation import EvaluationImages
from pruning.gohsp import TrainingData
from pruning.jobs.prune_job import Job
from pruning.methods import METHODS, Method, Task
from pruning.progress import Monitor

CURVE_IMAGES = 500  # held-out images on which a training measures itself after an epoch


@dataclass(frozen=True, eq=False)
class Prepared:
    """Everything the steps of a pruning run share: the job, the dense model, both image sets, the monitor."""

    job: Job
    dense: LoadedModel
    calibration: ImageSet
    test: ImageSet
    monitor: Monitor = field(default_factory=Monitor)

    @property
    def method(self) -> Method:
        """The job's method."""
        return METHODS[self.job.method]

    @cached_property
    def task(self) -> Task:
        """What the method is given: a model in which no tokens merge.

        Raises:
            ValueError: a preset for another model.
        """
        model = self.dense.model
        request = self.job.request(model.arch)
        dense, arch = self.dense, self.job.kept_output(unmerged(model.arch))
        if arch != model.arch:
            dense = replace(dense, model=with_architecture(model, arch))
        return Task(dense, request, self.calibration, self._training, self.monitor)

    @cached_property
    def tested(self) -> EvaluationImages:
        """The test images, with the calibration images as a gallery."""
        return EvaluationImages.of(self.test, self.calibration)

    def _training(self) -> TrainingData:
        """What a method that trains learns from: the training part of `data`, or all of `calibration`."""
        job, classes = self.job, self.dense.model.arch.num_classes
        spec, test = (job.data, None) if job.calibration is None else (job.calibration, job.data)
        images, heldout = open_training(spec, self.dense.preprocess, classes, test)
        return TrainingData(images, self.dense.preprocess, job.seed, heldout.sample(CURVE_IMAGES))


def prepare(job: Job, monitor: Monitor | None = None, dense: LoadedModel | None = None) -> Prepared:
    """Load what a job names; the dense model is reused where it is at hand.

    Raises:
        ValueError: the model or the images cannot be read, do not fit each other, or share images.
    """
    dense = dense or load_dense(job)
    calibration, test = image_sets(job, dense)
    divided = calibration.name != test.name  # by someone else
    if divided or job.calibration is not None:  # not in `image_sets`, by which pages open images of old runs
        require_apart(calibration, test)
    monitor = monitor or Monitor()
    for note in dict.fromkeys((*dense.notes, *calibration.notes, *test.notes)):
        monitor.note(note)
    return Prepared(job, dense, calibration, test, monitor)


def load_dense(job: Job) -> LoadedModel:
    """The model that a job begins with.

    Raises:
        ValueError: it cannot be loaded.
    """
    return load(job.model, Path(job.weights) if job.weights else None, job.reading)


def image_sets(job: Job, loaded: LoadedModel) -> tuple[ImageSet, ImageSet]:
    """The images a job calibrates on and the images it tests on.

    Raises:
        ValueError: the data cannot be read, or does not fit the model.
    """
    classes = loaded.model.arch.num_classes
    other = job.calibration is not None
    calibration = open_data(
        job.calibration or job.data, loaded.preprocess, classes, "learn" if other else "calibration"
    )
    apart = "heldout" if job.trains else "test"
    test = open_data(job.data, loaded.preprocess, classes, "all" if other else apart)
    return calibration, test.sample(job.limit, job.seed) if job.limit else test
