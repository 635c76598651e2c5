"""Batches of preprocessed images, optionally prefetched by worker processes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from analysis.data.image_set import ImageSet
from analysis.models import Preprocess


def batches(
    images: ImageSet, preprocess: Preprocess, batch_size: int = 32, limit: int | None = None, workers: int = 0
) -> Iterator[tuple[Float[Tensor, "B C Y X"], Int[Tensor, " B"]]]:
    """Images and labels, batch by batch, in the order of the set.

    If the set has more than `limit` images, `images.sample(limit)` is used, in the order of the sample.
    `workers` processes prefetch batches; with 0 they are read in this process.

    Raises:
        ValueError: no images, or a limit or batch size below 1.
        BadImageError: an image cannot be read; raised during iteration.
    """
    if not len(images):
        raise ValueError(f"{images.name}: there are no images")
    if limit is not None and (limit < 1 or limit < len(images)):
        images = images.sample(limit)
    return read_ahead(_Tensors(images, preprocess), workers, batch_size=batch_size)


def read_ahead(
    dataset: Dataset[tuple[Tensor, int] | ValueError], workers: int, **loader: Any
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of a data set whose items may be a `ValueError` in place of an image that cannot be used.

    `workers` processes prefetch batches; with 0 they are read in this process. `loader` are options of
    torch's DataLoader.

    Raises:
        ValueError: on reaching the batch with that image; a `BadImageError` if it cannot be read.
    """
    # An exception raised in a worker process arrives with its whole traceback in the message. So the
    # worker returns the exception as a value instead, and it is raised here.
    generator = torch.Generator()  # otherwise the loader draws from torch's global generator
    return _unwrap(
        DataLoader(dataset, num_workers=workers, collate_fn=_collate, generator=generator, **loader)
    )


_Sample = tuple[Tensor, int]


class _Tensors(Dataset[_Sample | ValueError]):
    def __init__(self, images: ImageSet, preprocess: Preprocess) -> None:
        self.images, self.preprocess = images, preprocess

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> _Sample | ValueError:
        try:
            return self.preprocess(self.images.image(i)), self.images.label(i)
        except ValueError as error:
            return error


def _collate(samples: list[_Sample | ValueError]) -> Any:
    return next((s for s in samples if isinstance(s, ValueError)), None) or default_collate(samples)


def _unwrap(loader: Iterable[Any]) -> Iterator[tuple[Tensor, Tensor]]:
    for batch in loader:
        if isinstance(batch, ValueError):
            raise batch
        yield batch[0], batch[1]
