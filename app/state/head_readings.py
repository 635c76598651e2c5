"""What is known about the loaded model's heads: from a run on disk, or from a quick look at a few images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from app import wording
from app.progress_bar import progress_bar
from app.state import head_locks, memo, session, session_runs
from app.state.session import NothingChosen
from app.state.viewed_image import ViewedImage
from pruning.criteria import HeadReading, read_heads
from pruning.jobs import HeadsJob, measure_heads, open_reading
from pruning.progress import Progress
from pruning.runs import Run

QUICK = 8  # images of the quick look, which has no measure that needs labels


@dataclass(frozen=True)
class Known:
    """A reading, and in a few words what it rests on; `whole` if nothing of it was left out."""

    reading: HeadReading
    source: str
    whole: bool


def job(images: int) -> HeadsJob:
    """The run that measures the loaded model on the loaded images.

    Raises:
        NothingChosen: no images are loaded.
    """
    chosen = session.choice()
    if chosen.data is None:
        raise NothingChosen("Measuring every criterion needs labelled images. Pick some in the sidebar.")
    return HeadsJob(chosen.model, chosen.data, chosen.weights, images)


def newest() -> Run | None:
    """The newest run that measures this model on these images, whatever came of it."""
    return next(_runs(), None)


def measured() -> Known | None:
    """What the newest finished run found, if it was this very model that it read."""
    for run in _runs():
        if run.state == "done":
            found = memo.remember("reading", run.folder, partial(open_reading, run.folder), keep=4)
            if found.model == head_locks.model_id():
                return Known(found, f"Measured on {wording.count(found.images)} calibration images.", True)
    return None


def _runs() -> Iterator[Run]:
    if session.choice().data is None:
        return
    wanted = session_runs.lasting(job(1), copy=False)
    for run in session_runs.listed():
        if isinstance(run.job, HeadsJob) and replace(run.job, images=1, seed=0) == wanted:
            yield run


def quick() -> Known:
    """All that needs no labels, on a few of the loaded images; read once.

    Raises:
        ValueError: no images, or one that cannot be read.
    """
    loaded = session.model()
    few = session.few_images(QUICK)
    key = (loaded, session.choice())

    def look() -> HeadReading:
        with progress_bar() as progress:
            return measure_heads(loaded, few, progress, ask=False)

    found = memo.remember("quick heads", key, look, keep=4)
    return Known(found, f"A quick look at {wording.count(found.images)} images, without labels.", False)


def of_photos(photos: list[ViewedImage]) -> Known:
    """All that needs no labels, on photos of the user's own; read once."""
    loaded = session.model()
    key = (loaded, tuple(photo.key for photo in photos))

    def look() -> HeadReading:
        with progress_bar() as progress:
            return read_heads(loaded.model, _one_by_one(photos, progress))

    found = memo.remember("quick heads", key, look, keep=4)
    some = "your photo" if len(photos) == 1 else f"{wording.count(len(photos))} photos of yours"
    return Known(found, f"A quick look at {some}, without labels.", False)


def _one_by_one(photos: list[ViewedImage], progress: Progress) -> Iterator[tuple[Tensor, Tensor]]:
    loaded = session.model()
    for number, photo in enumerate(photos):
        yield loaded.preprocess(photo.image)[None], torch.zeros(1, dtype=torch.long)
        progress("Reading attention", (number + 1) / len(photos))
