"""Batches of images that report how far they have been read."""

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
    """Batches of `size`, preprocessed for a model; `progress` is told the share read so far."""
    done = 0
    progress(what, 0.0)
    for batch, labels in batches(images, loaded.preprocess, size):
        yield batch, labels
        done += len(labels)
        progress(what, done / len(images))


@dataclass(frozen=True)
class RepeatableBatches:
    """Batches that can be read more than once: every reading begins anew."""

    read: Callable[[], Iterator[tuple[Tensor, Tensor]]]

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return self.read()
