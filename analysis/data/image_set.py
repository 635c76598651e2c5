"""A labelled set of images, with reproducible subsets and samples.

Item names are `class/name.jpg`. Random choices (calibration images, samples) depend only on the item
names and a seed, so a folder, a zip of it and a copy on another machine give the same ones.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from analysis.data import scenes

FINGERPRINTED = 4096  # at most so many images are read for the fingerprint of a set


class Source(Protocol):
    """Images by index, with their names, `class/name.jpg`."""

    @property
    def names(self) -> Sequence[str]: ...

    def image(self, item: int) -> Image.Image: ...

    def content(self, item: int) -> bytes:
        """Bytes that identify the image's content: those of its file."""
        ...


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images with labels: `classes` has a name for each logit of the model, a label is an index into it.

    `source_labels` are the labels of all images of `source`; `indices` select the images of this set.
    `notes` say what was assumed, or left out, when the set was opened: a sentence each.
    """

    name: str
    classes: tuple[str, ...]
    source: Source
    source_labels: tuple[int, ...]
    indices: tuple[int, ...]
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.indices)

    def image(self, i: int) -> Image.Image:
        """Image `i` of the set, RGB.

        Raises:
            BadImageError: the image cannot be read.
        """
        return self.source.image(self.indices[i])

    def label(self, i: int) -> int:
        """Class of image `i`, as an index into the model's logits."""
        return self.source_labels[self.indices[i]]

    def item_name(self, i: int) -> str:
        """Name of image `i`, `class/name.jpg`."""
        return self.source.names[self.indices[i]]

    @property
    def rendered(self) -> bool:
        """Whether these images are rendered by this project: noise-free, upright and unlimited in number."""
        return isinstance(self.source, SceneSource)

    def mask(self, i: int) -> NDArray[np.bool_] | None:
        """Mask of the object in image `i` (rows, columns); None except for demo scenes."""
        return self.source.mask(self.indices[i]) if isinstance(self.source, SceneSource) else None

    def names_id(self) -> str:
        """A short hash of the names and labels of these images, in this order; no file is read."""
        listed = [(self.item_name(i), self.label(i)) for i in range(len(self))]
        digest = hashlib.blake2b(repr((self.classes, listed)).encode(errors="surrogateescape"), digest_size=8)
        return digest.hexdigest()

    def fingerprint(self) -> str:
        """A short hash of the names, labels and content of these images, in this order.

        A copy or a zip of the same images has the same fingerprint. Of a larger set, the content of
        only `FINGERPRINTED` images, sampled evenly over the classes, is read.

        Raises:
            BadImageError: a file cannot be read.
        """
        digest = hashlib.blake2b(self.names_id().encode(), digest_size=8)
        read = self if len(self) <= FINGERPRINTED else self.sample(FINGERPRINTED)
        for item in read.indices:
            digest.update(hashlib.blake2b(self.source.content(item), digest_size=16).digest())
        return digest.hexdigest()

    def subset(self, indices: Iterable[int]) -> ImageSet:
        """The images at these indices of this set, in this order."""
        return replace(self, indices=tuple(self.indices[i] for i in indices))

    def sample(self, n: int, seed: int = 0) -> ImageSet:
        """A stratified sample of at most `n` images, the same ones for the same seed.

        The first images of the sample are a stratified sample as well, for any number of them.

        Raises:
            ValueError: `n` is below 1.
        """
        if n < 1:
            raise ValueError(f"a sample needs at least 1 image, got {n}")
        names = [self.item_name(i) for i in range(len(self))]
        return self.subset(stratified_order(names, f"sample {seed}")[:n])


# ---- splitting and sampling


def stratified_order(names: Sequence[str], seed: str) -> list[int]:
    """All indices in an order in which every prefix has the same share of every class.

    Each class is shuffled by a hash of its names and spread evenly over [0, 1).
    """
    keys = [hashlib.blake2b(f"{seed}:{name}".encode(errors="surrogateescape")).digest() for name in names]
    folders = [name.partition("/")[0] for name in names]
    sizes, ranks = Counter(folders), Counter[str]()
    positions = []
    for i in sorted(range(len(names)), key=keys.__getitem__):
        positions.append(((ranks[folders[i]] + 0.5) / sizes[folders[i]], keys[i], i))
        ranks[folders[i]] += 1
    return [i for _, _, i in sorted(positions)]


# ---- the demo scenes


@dataclass(frozen=True)
class SceneSource:
    """Demo scenes of a split, drawn when they are asked for."""

    split: str
    names: tuple[str, ...]

    def image(self, item: int) -> Image.Image:
        # training scenes are rendered again each time: caching 20,000 of them would take 245 MB
        render = scenes.render if self.split == "train" else _cached
        return Image.fromarray(render(self.split, item).image)

    def content(self, item: int) -> bytes:
        return f"{self.split} {item}".encode()  # split and index determine the scene

    def mask(self, item: int) -> NDArray[np.bool_]:
        return scenes.render(self.split, item).mask


@lru_cache(maxsize=scenes.TEST_IMAGES + scenes.CALIBRATION_IMAGES)
def _cached(split: str, item: int) -> scenes.Scene:
    return scenes.render(split, item)
