"""Measures of the loaded model's heads: by a run, or by a quick look at a few images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from app import wording
from app.progress_bar import progress_bar
from app.state import finished_runs, head_locks, memo, session, session_runs
from app.state.session import NothingChosen
from app.state.viewed_image import ViewedImage
from pruning.criteria import HeadReading, read_heads
from pruning.jobs import HeadsJob, measure_heads, open_reading
from pruning.progress import Progress
from pruning.runs import Run

QUICK = 8  # images of the quick look


@dataclass(frozen=True)
class KnownReading:
    """A reading and a sentence on what it was measured on; `complete` if it has every measure."""

    reading: HeadReading
    source: str
    complete: bool


def job(images: int) -> HeadsJob:
    """The run that measures the loaded model on the loaded images.

    Raises:
        NothingChosen: no images are loaded.
    """
    chosen = session.choice()
    if chosen.data is None:
        raise NothingChosen("Some criteria need labelled images to be measured on. Pick some in the sidebar.")
    return HeadsJob(chosen.model, chosen.data, chosen.weights, images, reading=chosen.reading)


def newest() -> Run | None:
    """The newest run that measures this model on these images, in whatever state it is."""
    return next(_runs(), None)


def measured() -> KnownReading | None:
    """What the newest finished run of these weights measured, if there is one."""
    for run in _runs():
        if run.state == "done" and finished_runs.flaw(run) is None:
            key = run.folder, finished_runs.stamp(run)
            found = memo.remember("reading", key, partial(open_reading, run.folder), keep=4)
            if found.model == head_locks.model_id():
                return KnownReading(
                    found, f"Measured on {wording.count(found.images)} calibration images.", True
                )
    return None


def _runs() -> Iterator[Run]:
    if session.choice().data is None:
        return
    wanted = session_runs.lasting(job(1), copy=False)
    for run in session_runs.listed():
        if isinstance(run.job, HeadsJob) and replace(run.job, images=1, seed=0) == wanted:
            yield run


def quick() -> KnownReading:
    """The measures that need no labels, on a few of the loaded images; computed once.

    Raises:
        ValueError: no images, or one that cannot be read.
    """
    loaded = session.model()
    few = session.few_images(QUICK)
    key = (loaded, session.choice())

    def measure() -> HeadReading:
        with progress_bar() as progress:
            return measure_heads(loaded, few, progress, ask=False)

    found = memo.remember("quick heads", key, measure, keep=4)
    return KnownReading(
        found, f"A quick look at {wording.count(found.images)} images, without labels.", False
    )


def of_photos(photos: list[ViewedImage]) -> KnownReading:
    """The measures that need no labels, on photos of the user's own; computed once."""
    loaded = session.model()
    key = (loaded, tuple(photo.key for photo in photos))

    def measure() -> HeadReading:
        with progress_bar() as progress:
            return read_heads(loaded.model, _one_by_one(photos, progress))

    found = memo.remember("quick heads", key, measure, keep=4)
    those = "your photo" if len(photos) == 1 else f"your {wording.count(len(photos))} photos"
    return KnownReading(found, f"A quick look at {those}, without labels.", False)


def _one_by_one(photos: list[ViewedImage], progress: Progress) -> Iterator[tuple[Tensor, Tensor]]:
    loaded = session.model()
    for number, photo in enumerate(photos):
        yield loaded.preprocess(photo.image)[None], torch.zeros(1, dtype=torch.long)
        progress("Reading attention", (number + 1) / len(photos))
