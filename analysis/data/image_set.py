"""Where images come from: the demo scenes, a folder of class folders, a zip of one, CIFAR-10.

Item names are `class/name.jpg`, and everything drawn at random (which images calibrate, which
are sampled) depends on them and a seed alone: a folder, its zip and a copy elsewhere agree.
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

FINGERPRINTED = 4096  # images whose content is read to tell one set from another, at most


class Source(Protocol):
    """Images by number: their names, `class/name.jpg`, and what they show."""

    @property
    def names(self) -> Sequence[str]: ...

    def image(self, item: int) -> Image.Image: ...

    def content(self, item: int) -> bytes:
        """What tells this image's content from any other's: the bytes of its file."""
        ...


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images with labels: `classes` names every logit of the model, a label is an index into it.

    `source_labels` belong to all images of `source`; `indices` are those of the set, in its order.
    """

    name: str
    classes: tuple[str, ...]
    source: Source
    source_labels: tuple[int, ...]
    indices: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.indices)

    def image(self, i: int) -> Image.Image:
        """Image `i` of the set, RGB.

        Raises:
            BadImageError: it cannot be read.
        """
        return self.source.image(self.indices[i])

    def label(self, i: int) -> int:
        """Class of image `i`, in the order of the model's logits."""
        return self.source_labels[self.indices[i]]

    def item_name(self, i: int) -> str:
        """Name of image `i`, `class/name.jpg`."""
        return self.source.names[self.indices[i]]

    @property
    def rendered(self) -> bool:
        """Whether the project draws these images itself: clean, upright, never short of more."""
        return isinstance(self.source, _Scenes)

    def mask(self, i: int) -> NDArray[np.bool_] | None:
        """Which pixels of image `i` show its object (rows, columns); known for demo scenes only."""
        return self.source.mask(self.indices[i]) if isinstance(self.source, _Scenes) else None

    def fingerprint(self) -> str:
        """A short name for these images in this order: their names, labels and content.

        A copy elsewhere and a zip of it have the same; one changed picture makes another. Of more than
        `FINGERPRINTED` images the content of so many is read, evenly drawn.

        Raises:
            BadImageError: a file cannot be read.
        """
        listed = [(self.item_name(i), self.label(i)) for i in range(len(self))]
        digest = hashlib.blake2b(repr((self.classes, listed)).encode(errors="surrogateescape"), digest_size=8)
        read = self if len(self) <= FINGERPRINTED else self.sample(FINGERPRINTED)
        for item in read.indices:
            digest.update(hashlib.blake2b(self.source.content(item), digest_size=16).digest())
        return digest.hexdigest()

    def subset(self, indices: Iterable[int]) -> ImageSet:
        """The images at these indices of this set, in this order."""
        return replace(self, indices=tuple(self.indices[i] for i in indices))

    def sample(self, n: int, seed: int = 0) -> ImageSet:
        """At most `n` images in which every class has its share, the same ones for the same seed.

        So has the beginning of the sample, however short.

        Raises:
            ValueError: `n` is below 1.
        """
        if n < 1:
            raise ValueError(f"a sample needs at least 1 image, got {n}")
        return self.subset(_spread([self.item_name(i) for i in range(len(self))], f"sample {seed}")[:n])


# ---- dividing and sampling


def _spread(names: Sequence[str], seed: str) -> list[int]:
    """All indices, in an order whose every beginning holds the same share of every class.

    Each class is shuffled by a hash of its names and laid out evenly over [0, 1).
    """
    keys = [hashlib.blake2b(f"{seed}:{name}".encode(errors="surrogateescape")).digest() for name in names]
    folders = [name.partition("/")[0] for name in names]
    sizes, ranks = Counter(folders), Counter[str]()
    places = []
    for i in sorted(range(len(names)), key=keys.__getitem__):
        places.append(((ranks[folders[i]] + 0.5) / sizes[folders[i]], keys[i], i))
        ranks[folders[i]] += 1
    return [i for _, _, i in sorted(places)]


# ---- the demo scenes


@dataclass(frozen=True)
class _Scenes:
    split: str
    names: tuple[str, ...]

    def image(self, item: int) -> Image.Image:
        # training scenes are drawn anew each time: 20,000 of them would take 245 MB
        draw = scenes.render if self.split == "train" else _kept
        return Image.fromarray(draw(self.split, item).image)

    def content(self, item: int) -> bytes:
        return f"{self.split} {item}".encode()  # the same scene for ever

    def mask(self, item: int) -> NDArray[np.bool_]:
        return scenes.render(self.split, item).mask


@lru_cache(maxsize=scenes.TEST_IMAGES + scenes.CALIBRATION_IMAGES)
def _kept(split: str, item: int) -> scenes.Scene:
    return scenes.render(split, item)
