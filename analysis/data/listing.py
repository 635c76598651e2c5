"""What a folder or zip of images holds: the paths of its images, and the class folders they lie in."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from PIL import Image

from analysis.data.image_set import Source
from analysis.data.images import EXTENSIONS, MAX_BYTES, MOST_GREY, BadImageError, read_image
from analysis.paths import is_allowed, read_regular

MOST_ENTRIES = 5_000_000  # files and folders of one set, several times as many as in ImageNet-1k
LISTING_SECONDS = 5  # after which a folder that is listed must have turned out to hold images, mostly
READ = (*EXTENSIONS, ".parquet")  # files that a folder of images may hold many of
ACCEPTED = (
    "data must be 'demo', a folder of class folders with images, a zip of one, images with a table of their "
    "labels, parquet files, or 'cifar10:FOLDER'"
)
_NARROWER = "choose the folder that holds the class folders"


class Opener(Protocol):
    """Makes a source of the images of one folder, zip, ...: their names, and where they lie in it."""

    def __call__(
        self, path: Path, names: tuple[str, ...], members: tuple[str, ...], white: int = MOST_GREY
    ) -> Source: ...


@dataclass(frozen=True)
class FolderImages:
    """Images in a folder; `members` are their paths in it."""

    path: Path
    names: tuple[str, ...]
    members: tuple[str, ...]
    white: int = MOST_GREY

    def image(self, item: int) -> Image.Image:
        return read_image(self.path / self.members[item], self.names[item], self.white)

    def content(self, item: int) -> bytes:
        try:
            return read_regular(self.path / self.members[item], MAX_BYTES)
        except OSError as error:
            raise BadImageError(f"{self.names[item]} cannot be read: {error.strerror}") from error


@dataclass(frozen=True)
class Listed:
    """Paths of images below the folder `top`, `class/name.jpg`, and the class folders there.

    `entries` maps all paths, as they are written here, to how `opener` finds them in `path`: in a zip they
    may be written otherwise, and where a table gives the labels the class folders are made up. `numbered`
    are the classes in the order of their numbers, where the data number them. `notes` are for the user.
    """

    path: Path
    opener: Opener
    entries: dict[str, str]
    top: str
    names: tuple[str, ...]
    folders: tuple[str, ...]
    where: str  # how messages call it
    numbered: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def part(self, folder: str, folders: tuple[str, ...] = ()) -> Listed:
        """Only what lies in class folders inside `folder`."""
        inside = f"{folder}/"
        below = (name[len(inside) :] for name in self.names if name.startswith(inside))
        names = tuple(name for name in below if "/" in name)
        where = f"{self.where}/{folder}"
        return replace(self, top=self.top + inside, names=names, folders=folders, where=where)

    def source(self, names: tuple[str, ...], white: int = MOST_GREY) -> Source:
        """These of its images."""
        return self.opener(self.path, names, tuple(self.entries[self.top + name] for name in names), white)


def list_folder(path: Path) -> dict[str, str]:
    """All files and folders in a folder, as `zips.list_zip` lists those of a zip.

    Raises:
        ValueError: it cannot be read, or looks like no set of images.
    """
    try:
        return {entry: entry for entry in _bounded(_walk(str(path)), path)}
    except OSError as error:
        raise ValueError(f"{error.filename} cannot be read: {error.strerror}") from error


def _bounded(entries: Iterable[str], folder: Path) -> Iterator[str]:
    """The entries, as long as they look like a set of images.

    Raises:
        ValueError: there are too many, or after some time most of them are no images, as on a whole disk.
    """
    end, images = time.monotonic() + LISTING_SECONDS, 0
    for number, entry in enumerate(entries):
        images += entry.lower().endswith(READ)
        if number >= MOST_ENTRIES:
            raise ValueError(f"{folder} holds more than {MOST_ENTRIES:,} files: {_NARROWER}")
        if time.monotonic() > end and 2 * images < number:
            raise ValueError(f"{folder} holds {number:,} files or more, most of them no images: {_NARROWER}")
        yield entry


def _walk(folder: str, prefix: str = "", above: frozenset[str] = frozenset()) -> Iterator[str]:
    """All files and folders in a folder, named as in a zip: the name of a folder ends in a slash.

    Links are followed, but not in circles, nor out of the folders that this process is limited to.
    """
    real = os.path.realpath(folder)
    if real in above or not is_allowed(Path(real)):
        return
    with os.scandir(folder) as listing:
        for entry in listing:
            if entry.is_dir():
                yield f"{prefix}{entry.name}/"
                yield from _walk(entry.path, f"{prefix}{entry.name}/", above | {real})
            else:
                yield prefix + entry.name


def visible_images(visible: Sequence[str], where: str) -> list[str]:
    """The images among the entries that are not hidden.

    Raises:
        ValueError: there are none.
    """
    images = [entry for entry in visible if entry.lower().endswith(EXTENSIONS)]
    if images:
        return images
    if any(entry.lower().endswith(".zip") for entry in visible):
        raise ValueError(f"{where} contains zips instead of images: open one of the zips instead")
    raise ValueError(f"{where} {'contains no images' if visible else 'is empty'}: {ACCEPTED}")


def layout(
    visible: Sequence[str], images: Sequence[str], where: str
) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    """The folder that contains the class folders, image names relative to it, and class folders; sorted.

    Class folders are those at the first level with more than one entry.

    Raises:
        ValueError: there are no class folders.
    """
    top = top_of(images)
    names = sorted(image[len(top) :] for image in images if "/" in image[len(top) :])
    if not names:
        raise ValueError(
            f"{where} contains {len(images)} images but no class folders; a table beside them must name the "
            "class of each (labels.csv with the columns file and label), or each image must be in the "
            "folder of its class, as class/name.jpg"
        )
    below = {entry[len(top) :] for entry in visible if entry.startswith(top)}
    return top, tuple(names), tuple(sorted({e.partition("/")[0] for e in below if "/" in e}))


def is_hidden(entry: str) -> bool:
    """Whether a path is hidden, or a part of what macOS adds to zips."""
    return any(part.startswith(".") or part == "__MACOSX" for part in entry.split("/"))


def top_of(images: Sequence[str]) -> str:
    """The path to the class folders, shared by all images: `data/set/` for data/set/cat/1.jpg."""
    top = ""
    while True:
        rest = [image[len(top) :] for image in images]
        first = rest[0].partition("/")[0] + "/"
        if not all(image.startswith(first) and image.count("/") > 1 for image in rest):
            return top
        top += first
