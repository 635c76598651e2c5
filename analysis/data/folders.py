"""Image sets on disk: a folder of class folders, a zip of one, images with a table, parquet, CIFAR-10."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from analysis.data.image_set import ImageSet
from analysis.data.images import EXTENSIONS, FORMATS, MOST_GREY, BadImageError, greatest_grey
from analysis.data.labels import match_folders
from analysis.data.listing import (
    ACCEPTED,
    FolderImages,
    Listed,
    Opener,
    is_hidden,
    layout,
    list_folder,
    visible_images,
)
from analysis.data.parquet import PARQUET, list_parquet
from analysis.data.splits import find_parts
from analysis.data.tables import TABLES, list_by_table, list_by_tables
from analysis.data.zips import ZippedImages, list_zip
from analysis.models import Preprocess
from analysis.paths import NotAllowedError, quoted, user_path

DEEP = (*FORMATS["PNG"], *FORMATS["TIFF"], *FORMATS["PPM"], *FORMATS.get("JPEG2000", ()))  # more than 8 bits
WHITES = (1023, 4095, 16383)  # of 10, 12 and 14 bits
SAMPLED = 32  # images that are looked at for that
UNLABELLED = "unlabelled"  # the one class of images that lie in no class folders, where none is needed


def existing_path(text: str) -> Path:
    """The file or folder that a user named.

    Raises:
        ValueError: it does not exist, or no file can have this path.
    """
    missing = f"there is no file or folder {quoted(text)}: {ACCEPTED}"
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
    """The images of a folder or zip of class folders, or of those of which a table says the class.

    For a model without a classifier (`num_classes` 0) images need no class folders.

    Raises:
        ValueError: no images or class folders, not safe to open, or other classes than the model's.
    """
    return _image_set(name, _listed(path, bool(num_classes)), preprocess, num_classes)


def open_part(
    name: str, path: Path, preprocess: Preprocess, num_classes: int, learn: bool
) -> tuple[ImageSet, bool]:
    """As `open_files`, but of images that come divided (splits.py) the part to `learn` from or to test on.

    Also says whether they do.

    Raises:
        ValueError: as `open_files`, or parts that do not hold the same classes.
    """
    listed = _listed(path, bool(num_classes))
    parts = find_parts(listed.names, preprocess.labels, listed.where)
    if parts is None:
        return _image_set(name, listed, preprocess, num_classes), False
    part = parts.learn if learn else parts.test
    chosen = listed.part(part, _top_folders(listed.part(parts.learn).names))
    return _image_set(f"{name}/{part}", chosen, preprocess, num_classes), True


def listed_classes(path: Path) -> tuple[str, ...]:
    """The classes of a folder or zip, by their numbers or else sorted; of a divided one, those to learn from.

    Raises:
        ValueError: as `open_files`.
    """
    listed = _listed(path)
    if listed.numbered:
        return listed.numbered
    parts = find_parts(listed.names, (), listed.where)
    return listed.folders if parts is None else _top_folders(listed.part(parts.learn).names)


def _listed(path: Path, classified: bool = True) -> Listed:
    """What lies in a folder or file. Images that are not `classified` need no class folders."""
    where, suffix = path.name or str(path), path.suffix.lower()
    opener: Opener = ZippedImages
    if path.is_dir():
        entries, opener = list_folder(path), FolderImages
        visible = [entry for entry in entries if not is_hidden(entry)]
        shards = [entry for entry in visible if entry.lower().endswith(PARQUET)]
        if shards and not any(entry.lower().endswith(EXTENSIONS) for entry in visible):
            return list_parquet(path, shards, where)
    elif suffix == PARQUET:
        return list_parquet(path.parent, [path.name], where)
    elif suffix in TABLES:
        return list_by_table(path, list_folder(path.parent))
    else:
        entries = list_zip(path)
        visible = [entry for entry in entries if not is_hidden(entry)]
    images = visible_images(visible, where)
    found = list_by_tables(path, opener, entries, images, where)
    if found is None and not classified and not any("/" in image for image in images):
        placed = {f"{UNLABELLED}/{image}": entries[image] for image in images}
        return Listed(path, opener, placed, "", tuple(sorted(placed)), (UNLABELLED,), where)
    return found or Listed(path, opener, entries, *layout(visible, images, where), where)


def _image_set(name: str, listed: Listed, preprocess: Preprocess, num_classes: int) -> ImageSet:
    names = listed.names
    index_of, classes = match_folders(
        listed.where, _top_folders(names), listed.folders, preprocess, num_classes, listed.numbered
    )
    labels = tuple(index_of[name.partition("/")[0]] for name in names)
    white = _white(listed)
    notes = [*listed.notes, _left_out(listed)]
    if white < MOST_GREY:
        notes.append(f"the greyscale images of {listed.where} are read as of {white.bit_length()} bits")
    source = listed.source(names, white)
    return ImageSet(name, classes, source, labels, tuple(range(len(names))), tuple(filter(None, notes)))


def _white(listed: Listed) -> int:
    """The value that is white in greyscale images of more than 8 bits.

    Scanners store 10 to 14 bits in files of 16. So where a sample of the images stays far below the range of
    its files, white is the greatest value of the fewest bits that hold them all [ours].
    """
    few = [name for name in listed.names if name.lower().endswith(DEEP)]
    sample = listed.source(tuple(few[:: max(1, len(few) // SAMPLED)][:SAMPLED]))
    greatest = 0
    for number in range(len(sample.names)):
        try:
            found = greatest_grey(sample.content(number))
        except BadImageError:
            found = None
        if found is None and number >= 3 and not greatest:
            break  # colour, or 8 bits
        greatest = max(greatest, found or 0)
    return next((white for white in WHITES if 0 < greatest <= white), MOST_GREY)


def _left_out(listed: Listed) -> str | None:
    """Which files in class folders are no images that are read, in a sentence; None if there are none."""
    read = {listed.top + name for name in listed.names}
    inside = (entry for entry in listed.entries if entry.startswith(listed.top) and not is_hidden(entry))
    others = [
        entry
        for entry in inside
        if "/" in entry[len(listed.top) :] and not entry.endswith("/") and entry not in read
    ]
    if not others:
        return None
    kinds = Counter(PurePosixPath(entry).suffix.lower() or "without extension" for entry in others)
    shown = ", ".join(f"{count:,} {kind}" for kind, count in kinds.most_common(4))
    return f"left out of {listed.where}, as no images that can be read: {shown}{', ...' * (len(kinds) > 4)}"


def _top_folders(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted({name.partition("/")[0] for name in names}))


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
