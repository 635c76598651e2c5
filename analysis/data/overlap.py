"""Whether images that are learned from are also among those that are tested on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from analysis.data.image_set import ImageSet

TESTED = 512  # at most so many test images, sampled evenly over the classes, are looked for
SEARCHED = 4096  # at most so many images are read in the other set
ALLOWED = 0.01  # share of test images that may be found: collections hold a few photos twice


def require_apart(learned: ImageSet, test: ImageSet) -> None:
    """Refuse two sets of which one holds images of the other, whatever they and their folders are called.

    Files are compared by content. Of a larger set than `SEARCHED`, those with the name of a test image are
    read, and of the others a sample [ours].

    Raises:
        ValueError: more than `ALLOWED` of the test images are found.
        BadImageError: a file cannot be read.
    """
    sought = test.sample(TESTED)
    digests = set(_digests(sought, range(len(sought))))
    found = digests & set(_digests(learned, _candidates(learned, sought)))
    if len(found) > ALLOWED * len(digests):
        raise ValueError(
            f"{len(found)} of {len(digests)} test images of {test.name} that were compared are also in "
            f"{learned.name}, which is learned from: name two sets that share no images, or only one set, "
            "which is then divided"
        )


def _candidates(learned: ImageSet, sought: ImageSet) -> list[int]:
    """Indices of the images to read: first those with a name that is sought."""
    names = {_file(sought.item_name(i)) for i in range(len(sought))}
    alike = [i for i in range(len(learned)) if _file(learned.item_name(i)) in names]
    others = sorted(set(range(len(learned))) - set(alike))
    room = max(SEARCHED - len(alike), 0)
    step = max(1, -(-len(others) // room)) if room else len(others) + 1
    return alike[:SEARCHED] + others[::step]


def _file(name: str) -> str:
    return name.rpartition("/")[2]


def _digests(images: ImageSet, places: Iterable[int]) -> Iterable[bytes]:
    for place in places:
        content = images.source.content(images.indices[place])
        yield hashlib.blake2b(content, digest_size=16).digest()
