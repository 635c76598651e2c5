"""Measuring heads as a run of its own: `HeadsJob` as data, `measure_heads`, and what it leaves on disk."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from analysis.data import ImageSet, open_data
from analysis.formats import Stored
from analysis.models import LoadedModel, Reading, load
from pruning.criteria import HEAD_MEASURES, READ, HeadReading, ask_heads, read_heads
from pruning.progress import Monitor, Progress, quiet
from pruning.tracked import RepeatableBatches, tracked

READING = "heads.json"  # in a run folder: what was measured


@dataclass(frozen=True)
class HeadsJob(Stored):
    """The model whose heads are measured, by every measure, and the images; frozen, hashable, JSON.

    `images` are taken from the calibration part of `data`, at most.

    Raises:
        ValueError: a value of another type, or fewer than one image.
    """

    INDENT: ClassVar[int | None] = 2

    model: str
    data: str
    weights: str | None = None
    images: int = 64
    seed: int = 0
    reading: Reading = Reading()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.images < 1:
            raise ValueError(f"heads are measured on at least 1 image, got {self.images!r}")

    def command(self) -> str:
        """The command line that does the same."""
        words = ["python", "-m", "pruning", "heads", "--model", self.model]
        words += ["--weights", self.weights] if self.weights else []
        words += ["--data", self.data, "--images", str(self.images), *self.reading.words()]
        return shlex.join([*words, *(["--seed", str(self.seed)] if self.seed else [])])


def run_heads(job: HeadsJob, monitor: Monitor = Monitor()) -> HeadReading:
    """Load the model and measure its heads on calibration images.

    Raises:
        ValueError: bad input of any kind, in one sentence.
        Cancelled: the monitor asked for an end.
    """
    loaded = load(job.model, Path(job.weights) if job.weights else None, job.reading)
    for note in loaded.notes:
        monitor.note(note)
    classes = loaded.model.arch.num_classes
    images = open_data(job.data, loaded.preprocess, classes, "calibration")
    return measure_heads(loaded, images.sample(min(job.images, len(images)), job.seed), monitor)


def measure_heads(
    loaded: LoadedModel, images: ImageSet, progress: Progress = quiet, ask: bool = True
) -> HeadReading:
    """Every measure on these images; those of the loss only if `ask`.

    Raises:
        ValueError: no images, one that cannot be read, or activations that are not finite.
    """

    def told(what: str) -> RepeatableBatches:
        return RepeatableBatches(lambda: _few(images, loaded, what, progress))

    found = read_heads(loaded.model, told("Reading attention"))
    values = dict(found.values)
    for name, measure in HEAD_MEASURES.items():
        if ask and measure.needs_labels:
            values[name] = ask_heads(loaded.model, name, told(measure.title))
    return replace(found, values={name: values[name] for name in HEAD_MEASURES if name in values})


def _few(images: ImageSet, loaded: LoadedModel, what: str, progress: Progress) -> Iterator[Any]:
    """A few images at a time, so that progress is told, and a wish to cancel heard, often."""
    return tracked(images, loaded, what, progress, size=READ)


def is_reading(file: Path) -> bool:
    """Whether a file holds a reading."""
    try:
        return bool(HeadReading.read(file).values)
    except ValueError:
        return False


def open_reading(folder: Path) -> HeadReading:
    """What a run left in its folder.

    Raises:
        ValueError: there is none, or it is damaged.
    """
    return HeadReading.read(folder / READING)
