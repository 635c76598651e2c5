"""Image sets on disk: a folder of class folders, a zip of one, CIFAR-10."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from PIL import Image

from analysis.data.image_set import ImageSet
from analysis.data.images import (
    EXTENSIONS,
    FORMATS,
    MAX_BYTES,
    MOST_GREY,
    BadImageError,
    greatest_grey,
    read_image,
)
from analysis.data.labels import match_folders
from analysis.data.splits import find_parts
from analysis.data.zips import ZippedImages, list_zip
from analysis.models import Preprocess
from analysis.paths import NotAllowedError, is_allowed, quoted, read_regular, user_path

MOST_ENTRIES = 5_000_000  # files and folders of one set, several times as many as in ImageNet-1k
LISTING_SECONDS = 5  # after which a folder that is listed must have turned out to hold images, mostly
DEEP = (*FORMATS["PNG"], *FORMATS["TIFF"], *FORMATS["PPM"], *FORMATS.get("JPEG2000", ()))  # more than 8 bits
WHITES = (1023, 4095, 16383)  # of 10, 12 and 14 bits
SAMPLED = 32  # images that are looked at for that
_NARROWER = "choose the folder that holds the class folders"

# ---- folders and zips


_ACCEPTED = "data must be 'demo', a folder of class folders with images, a zip of one, or 'cifar10:FOLDER'"


@dataclass(frozen=True)
class _Folder:
    root: Path
    names: tuple[str, ...]
    white: int = MOST_GREY

    def image(self, item: int) -> Image.Image:
        return read_image(self.root / self.names[item], self.names[item], self.white)

    def content(self, item: int) -> bytes:
        try:
            return read_regular(self.root / self.names[item], MAX_BYTES)
        except OSError as error:
            raise BadImageError(f"{self.names[item]} cannot be read: {error.strerror}") from error


def existing_path(text: str) -> Path:
    """The file or folder that a user named.

    Raises:
        ValueError: it does not exist, or no file can have this path.
    """
    missing = f"there is no file or folder {quoted(text)}: {_ACCEPTED}"
    try:
        path = user_path(text)
    except NotAllowedError:
        raise
    except ValueError as error:
        raise ValueError(f"{missing}; {error}") from error
    if path.is_dir() or path.is_file():
        return path
    raise ValueError(missing)


def open_files(name: str, path: Path, preprocess: Preprocess, num_classes: int) -> ImageSet:
    """The images of a folder or zip of class folders.

    Raises:
        ValueError: no images or class folders, not safe to open, or other classes than the model's.
    """
    return _image_set(name, _listed(path), preprocess, num_classes)


def open_part(
    name: str, path: Path, preprocess: Preprocess, num_classes: int, learn: bool
) -> tuple[ImageSet, bool]:
    """As `open_files`, but of images that come divided (splits.py) the part to `learn` from or to test on.

    Also says whether they do.

    Raises:
        ValueError: as `open_files`, or parts that do not hold the same classes.
    """
    listed = _listed(path)
    parts = find_parts(listed.names, preprocess.labels, listed.where)
    if parts is None:
        return _image_set(name, listed, preprocess, num_classes), False
    part = parts.learn if learn else parts.test
    chosen = listed.part(part, _top_folders(listed.part(parts.learn).names))
    return _image_set(f"{name}/{part}", chosen, preprocess, num_classes), True


def listed_classes(path: Path) -> tuple[str, ...]:
    """The class folders of a folder or zip, sorted; of one that is divided already, those to learn from.

    Raises:
        ValueError: as `open_files`.
    """
    listed = _listed(path)
    parts = find_parts(listed.names, (), listed.where)
    return listed.folders if parts is None else _top_folders(listed.part(parts.learn).names)


@dataclass(frozen=True)
class _Listed:
    """What a folder or zip holds: paths of images below the folder `top`, and the class folders there.

    `entries` maps all paths, as they are written here, to how they are written in the zip.
    """

    path: Path
    entries: dict[str, str]
    top: str
    names: tuple[str, ...]
    folders: tuple[str, ...]
    where: str  # how messages call it

    def part(self, folder: str, folders: tuple[str, ...] = ()) -> _Listed:
        """Only what lies in class folders inside `folder`."""
        inside = f"{folder}/"
        below = (name[len(inside) :] for name in self.names if name.startswith(inside))
        names = tuple(name for name in below if "/" in name)
        where = f"{self.where}/{folder}"
        return replace(self, top=self.top + inside, names=names, folders=folders, where=where)


def _listed(path: Path) -> _Listed:
    entries = _list_folder(path) if path.is_dir() else list_zip(path)
    where = path.name or str(path)
    return _Listed(path, entries, *_layout(entries, where), where)


def _image_set(name: str, listed: _Listed, preprocess: Preprocess, num_classes: int) -> ImageSet:
    path, names = listed.path, listed.names
    index_of, classes = match_folders(
        listed.where, _top_folders(names), listed.folders, preprocess, num_classes
    )
    labels = tuple(index_of[name.partition("/")[0]] for name in names)
    members = tuple(listed.entries[listed.top + name] for name in names)
    white = _white(listed)
    source = (
        _Folder(path / listed.top, names, white)
        if path.is_dir()
        else ZippedImages(path, names, members, white)
    )
    notes = [_left_out(listed)]
    if white < MOST_GREY:
        notes.append(f"the greyscale images of {listed.where} are read as of {white.bit_length()} bits")
    return ImageSet(name, classes, source, labels, tuple(range(len(names))), tuple(filter(None, notes)))


def _white(listed: _Listed) -> int:
    """The value that is white in greyscale images of more than 8 bits.

    Scanners store 10 to 14 bits in files of 16. So where a sample of the images stays far below the range of
    its files, white is the greatest value of the fewest bits that hold them all [ours].
    """
    few = [name for name in listed.names if name.lower().endswith(DEEP)]
    greatest = 0
    for number, name in enumerate(few[:: max(1, len(few) // SAMPLED)][:SAMPLED]):
        found = greatest_grey(_content(listed, name))
        if found is None and number >= 3 and not greatest:
            break  # colour, or 8 bits
        greatest = max(greatest, found or 0)
    return next((white for white in WHITES if 0 < greatest <= white), MOST_GREY)


def _content(listed: _Listed, name: str) -> Path | bytes:
    place = listed.top + name
    if listed.path.is_dir():
        return listed.path / place
    try:
        return ZippedImages(listed.path, (name,), (listed.entries[place],)).content(0)
    except BadImageError:
        return b""


def _left_out(listed: _Listed) -> str | None:
    """Which files in class folders are no images that are read, in a sentence; None if there are none."""
    inside = [entry for entry in listed.entries if entry.startswith(listed.top) and not _is_hidden(entry)]
    others = [
        entry
        for entry in inside
        if "/" in entry[len(listed.top) :]
        and not entry.endswith("/")
        and not entry.lower().endswith(EXTENSIONS)
    ]
    if not others:
        return None
    kinds = Counter(PurePosixPath(entry).suffix.lower() or "without extension" for entry in others)
    shown = ", ".join(f"{count:,} {kind}" for kind, count in kinds.most_common(4))
    return f"left out of {listed.where}, as no images that can be read: {shown}{', ...' * (len(kinds) > 4)}"


def _top_folders(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted({name.partition("/")[0] for name in names}))


def _list_folder(path: Path) -> dict[str, str]:
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
        images += entry.lower().endswith(EXTENSIONS)
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


def _layout(entries: Iterable[str], where: str) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    """The folder that contains the class folders, image names relative to it, and class folders; sorted.

    Class folders are those at the first level with more than one entry.

    Raises:
        ValueError: no images, or no class folders.
    """
    visible = [entry for entry in entries if not _is_hidden(entry)]
    images = [entry for entry in visible if entry.lower().endswith(EXTENSIONS)]
    if not images:
        if any(entry.lower().endswith(".zip") for entry in visible):
            raise ValueError(f"{where} contains zips instead of images: open one of the zips instead")
        raise ValueError(f"{where} {'contains no images' if visible else 'is empty'}: {_ACCEPTED}")
    top = _top(images)
    names = sorted(image[len(top) :] for image in images if "/" in image[len(top) :])
    if not names:
        raise ValueError(
            f"{where} contains {len(images)} images but no class folders; each image must be in the "
            "folder of its class, as class/name.jpg"
        )
    below = {entry[len(top) :] for entry in visible if entry.startswith(top)}
    return top, tuple(names), tuple(sorted({e.partition("/")[0] for e in below if "/" in e}))


def _is_hidden(entry: str) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in entry.split("/"))


def _top(images: Sequence[str]) -> str:
    """The path to the class folders, shared by all images: `data/set/` for data/set/cat/1.jpg."""
    top = ""
    while True:
        rest = [image[len(top) :] for image in images]
        first = rest[0].partition("/")[0] + "/"
        if not all(image.startswith(first) and image.count("/") > 1 for image in rest):
            return top
        top += first


# ---- CIFAR-10


def find_cifar10(folder: Path, side: str) -> tuple[str, Path]:
    """Name and path of the training or test images.

    Raises:
        ValueError: they do not exist, or only as pickles.
    """
    # JPEG copies differ from the lossless original, so the name states which data set this is
    for name, path in (
        ("CIFAR-10 (JPEG)", folder / f"cifar10-jpeg-{side}.zip"),
        ("CIFAR-10", folder / side),
    ):
        if path.exists():
            return name, path
    needed = f"cifar10:FOLDER needs cifar10-jpeg-{side}.zip or {side}/ with class folders in FOLDER"
    if folder.name == "cifar-10-batches-py" or (folder / "cifar-10-batches-py").exists():
        raise ValueError(
            f"{needed}; cifar-10-batches-py contains pickles, which are not read because they can run code"
        )
    raise ValueError(f"{needed}; neither is in {str(folder)!r}")
