"""Training images in their order: a function of seed, epoch and step alone, whoever reads them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from analysis.data import ImageSet, read_ahead
from analysis.models import Preprocess
from pruning.seeding import fingerprint, seeded
from pruning.training.augment import augmentation, normalized

CPU = torch.device("cpu")
Place = tuple[int, int]  # epoch, image of the set


@dataclass(frozen=True)
class Order:
    """Which images each step takes: `steps` batches an epoch, shared out among `processes`.

    Every epoch is a permutation of its own; what does not fill a batch is left out of it.
    """

    images: int
    batch: int
    steps: int
    seed: int
    process: int = 0
    processes: int = 1

    def epoch(self, number: int) -> Iterator[list[int]]:
        """The batches of one epoch, this process' share of each."""
        generator = torch.Generator().manual_seed(int(fingerprint("order", self.seed, number), 16) % 2**63)
        order = torch.randperm(self.images, generator=generator).tolist()
        for start in range(0, self.steps * self.batch, self.batch):
            yield [order[start + place] for place in self._share()]

    def _share(self) -> list[int]:
        # Mixup blends image i with B - 1 - i: such pairs stay together in one process.
        if self.processes == 1:
            return list(range(self.batch))
        half = self.batch // (2 * self.processes)
        first = list(range(self.process * half, (self.process + 1) * half))
        return first + [self.batch - 1 - place for place in reversed(first)]


def feed(
    images: ImageSet,
    preprocess: Preprocess,
    order: Order,
    strength: str,
    *,
    start: tuple[int, int],
    epochs: int,
    workers: int,
    device: torch.device = CPU,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Augmented images and labels on `device`, from epoch and step `start` on to the end of the last epoch.

    How an image is changed depends on seed, epoch and image, so that a training which goes on in the
    middle of an epoch sees what an unbroken one sees. `workers` processes read ahead.

    Raises:
        BadImageError: an image cannot be read; on the way, from the iterator.
    """
    if strength == "auto":
        strength = "none" if images.rendered else "light"
    places = _Places(order, start, epochs)
    dataset = _Augmented(images, preprocess, strength, order.seed)
    gpu = device.type == "cuda"
    for batch, labels in read_ahead(dataset, workers, batch_sampler=places, pin_memory=gpu):
        moved = batch.to(device, non_blocking=gpu)
        yield normalized(moved, preprocess), labels.to(device, non_blocking=gpu)


class _Places(Sampler[list[Place]]):
    def __init__(self, order: Order, start: tuple[int, int], epochs: int) -> None:
        self.order, self.start, self.epochs = order, start, epochs

    def __iter__(self) -> Iterator[list[Place]]:
        for epoch in range(self.start[0], self.epochs):
            done = self.start[1] if epoch == self.start[0] else 0
            for step, share in enumerate(self.order.epoch(epoch)):
                if step >= done:
                    yield [(epoch, index) for index in share]


class _Augmented(Dataset[tuple[Tensor, int] | ValueError]):
    """Images of a set, changed at random as their place says."""

    def __init__(self, images: ImageSet, preprocess: Preprocess, strength: str, seed: int) -> None:
        self.images, self.preprocess, self.strength, self.seed = images, preprocess, strength, seed

    def __getitem__(self, place: Place) -> tuple[Tensor, int] | ValueError:
        epoch, index = place
        # a mirrored photo shows the same thing; a mirrored scene is none that could be rendered
        change = augmentation(self.preprocess, self.strength, mirror=not self.images.rendered)
        try:
            image = self.images.image(index)
            with seeded("augment", self.seed, epoch, index, numpy=self.strength == "strong"):
                return change(image), self.images.label(index)
        except ValueError as error:
            return error
