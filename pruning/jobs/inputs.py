"""What a job reads: its images, batch by batch, and what it learns from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import Tensor

from analysis.data import ImageSet, batches, open_data, open_training
from analysis.measure import Batches
from analysis.models import LoadedModel
from pruning.gohsp import TrainingData
from pruning.jobs.prune_job import Job
from pruning.progress import Progress

BATCH = 32
CURVE_IMAGES = 500  # held-out images that a training measures itself on after an epoch


def require_classifier(loaded: LoadedModel) -> None:
    """Refuse to measure the accuracy of a model without a classifier.

    Raises:
        ValueError: it has none.
    """
    if loaded.model.arch.num_classes == 0:
        raise ValueError(
            f"{loaded.name} has no classifier, so no accuracy can be measured: load a model with classes, "
            "or weights of one"
        )


def image_sets(job: Job, loaded: LoadedModel) -> tuple[ImageSet, ImageSet]:
    """The images a job calibrates on and the images it tests on; no image is in both.

    Raises:
        ValueError: the data cannot be read, or does not fit the model.
    """
    classes = loaded.model.arch.num_classes
    other = job.calibration is not None
    calibration = open_data(
        job.calibration or job.data, loaded.preprocess, classes, "all" if other else "calibration"
    )
    apart = "heldout" if job.trains else "test"
    test = open_data(job.data, loaded.preprocess, classes, "all" if other else apart)
    return calibration, test.sample(job.limit, job.seed) if job.limit else test


def calibration_batches(
    job: Job, loaded: LoadedModel, calibration: ImageSet, what: str, progress: Progress
) -> Batches:
    """As many calibration images as the job's method asks for; they can be read more than once."""
    wanted = getattr(job.method_options, "images", None)
    chosen = calibration.sample(min(wanted, len(calibration)), job.seed) if wanted else calibration
    return RepeatableBatches(lambda: tracked(chosen, loaded, what, progress))


@dataclass(frozen=True)
class RepeatableBatches:
    """Batches that are read anew each time."""

    read: Callable[[], Iterator[tuple[Tensor, Tensor]]]

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return self.read()


def training_data(job: Job, loaded: LoadedModel) -> TrainingData | None:
    """What a method that trains learns from: the training part of `data`, or all of `calibration`."""
    if not getattr(job.method_options, "epochs", 0):
        return None
    spec, test = (job.data, None) if job.calibration is None else (job.calibration, job.data)
    images, heldout = open_training(spec, loaded.preprocess, loaded.model.arch.num_classes, test)
    return TrainingData(images, loaded.preprocess, job.seed, heldout.sample(CURVE_IMAGES))


def tracked(
    images: ImageSet, loaded: LoadedModel, what: str, progress: Progress, size: int = BATCH
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of `size` for a model, telling `progress` how far they have been read."""
    done = 0
    progress(what, 0.0)
    for batch, labels in batches(images, loaded.preprocess, size):
        yield batch, labels
        done += len(labels)
        progress(what, done / len(images))
