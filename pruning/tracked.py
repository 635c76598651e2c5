"""Batches of images that report progress while they are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import Tensor

from analysis.data import ImageSet, batches
from analysis.models import LoadedModel
from pruning.progress import Progress

BATCH = 32


def tracked(
    images: ImageSet, loaded: LoadedModel, what: str, progress: Progress, size: int = BATCH
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of `size` images, preprocessed for a model; reports the share read so far to `progress`."""
    done = 0
    progress(what, 0.0)
    for batch, labels in batches(images, loaded.preprocess, size):
        yield batch, labels
        done += len(labels)
        progress(what, done / len(images))


@dataclass(frozen=True)
class RepeatableBatches:
    """Batches that can be iterated over more than once; every iteration calls `read` again."""

    read: Callable[[], Iterator[tuple[Tensor, Tensor]]]

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return self.read()
