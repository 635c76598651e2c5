"""Where images come from: the demo scenes, a folder of class folders, a zip of one, CIFAR-10.

Item names are `class/name.jpg`, and everything drawn at random (which images calibrate, which
are sampled) depends on them and a seed alone: a folder, its zip and a copy elsewhere agree.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from analysis import scenes
from analysis.images import EXTENSIONS, BadImageError, read_image
from analysis.labels import match_folders
from analysis.preprocess import Preprocess
from analysis.zips import ZippedImages, list_zip

SPLITS = ("all", "calibration", "test", "train", "heldout")
CALIBRATION_IMAGES = 512  # at most; never more than half of a set
TRAIN_SCENES = 20_000  # as many as a few minutes of training see

_ACCEPTED = "data is 'demo', a folder of class folders with images, a zip of one, or 'cifar10:FOLDER'"


class Source(Protocol):
    """Images by number: their names, `class/name.jpg`, and what they show."""

    @property
    def names(self) -> Sequence[str]: ...

    def image(self, item: int) -> Image.Image: ...


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


def open_data(spec: str | Path, preprocess: Preprocess, num_classes: int, split: str = "all") -> ImageSet:
    """Open images for a model with these classes (`num_classes` 0: no head, any images will do).

    `spec` is `demo`, a folder of class folders, a zip of one, or `cifar10:FOLDER`, a folder with
    cifar10-jpeg-train.zip and cifar10-jpeg-test.zip, or train/ and test/.

    Splits `calibration` and `test` have no image in common. Scenes and CIFAR-10 come divided
    (`all` is then `test`); of a folder or zip, calibration takes up to `CALIBRATION_IMAGES` and
    at most half of the images, the same share of every class, chosen by their names [ours].
    For training, `train` and `heldout` have none in common: of a folder or zip, `train` is half of
    the images, those of `calibration` among them, and `heldout` the others; elsewhere `heldout` is
    `test`, and `train` the training images (`TRAIN_SCENES` of the demo).

    Class folders become labels by `labels.match_folders`.

    Raises:
        ValueError: nothing usable there, not safe to open, or other classes than the model's.
    """
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
    text = str(spec)
    if text == "demo":
        return _open_scenes(preprocess, num_classes, split)
    scheme, _, folder = text.partition("cifar10:")
    if folder and not scheme:
        side = "train" if split in ("calibration", "train") else "test"
        name, path = _find_cifar10(_existing(folder), side)
        return _open_files(name, path, preprocess, num_classes)
    path = _existing(text)
    images = _open_files(path.name or text, path, preprocess, num_classes)
    return images if split == "all" else _divide(images, split)


def open_training(
    spec: str, preprocess: Preprocess, num_classes: int, test: str | None = None
) -> tuple[ImageSet, ImageSet]:
    """Images to train on and images to measure on: `train` and `heldout` of one set, or all of two.

    Raises:
        ValueError: as `open_data`, or the same set twice.
    """
    if test is None:
        train, heldout = (open_data(spec, preprocess, num_classes, split) for split in ("train", "heldout"))
        return train, heldout
    if test == spec:
        raise ValueError(f"the test images must be others than the training images, got {spec!r} for both")
    divided = spec == "demo" or spec.startswith("cifar10:")
    train = open_data(spec, preprocess, num_classes, "train" if divided else "all")
    return train, open_data(test, preprocess, num_classes)


def batches(
    images: ImageSet, preprocess: Preprocess, batch_size: int = 32, limit: int | None = None, workers: int = 0
) -> Iterator[tuple[Float[Tensor, "B C Y X"], Int[Tensor, " B"]]]:
    """Images and labels, batch by batch, in the order of the set.

    `limit` takes `images.sample(limit)`, in the order of the sample, where the set is larger.
    `workers` processes decode ahead; 0 decodes here.

    Raises:
        ValueError: no images, or a limit or batch size below 1.
        BadImageError: an image cannot be read; on the way, from the iterator.
    """
    if not len(images):
        raise ValueError(f"{images.name}: there are no images")
    if limit is not None and (limit < 1 or limit < len(images)):
        images = images.sample(limit)
    return read_ahead(_Tensors(images, preprocess), workers, batch_size=batch_size)


def read_ahead(
    dataset: Dataset[tuple[Tensor, int] | BadImageError], workers: int, **loader: Any
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of a data set that gives a `BadImageError` in the place of what it cannot read.

    `workers` processes read ahead, 0 reads here; `loader` are options of torch's DataLoader.

    Raises:
        BadImageError: when the batch with the unreadable image is due.
    """
    # An exception that leaves a worker process comes back as its whole traceback in the message.
    # So an unreadable image travels as a value and is raised on this side.
    generator = torch.Generator()  # without its own, a loader draws from the global stream
    return _unwrap(
        DataLoader(dataset, num_workers=workers, collate_fn=_collate, generator=generator, **loader)
    )


_Sample = tuple[Tensor, int]


class _Tensors(Dataset[_Sample | BadImageError]):
    def __init__(self, images: ImageSet, preprocess: Preprocess) -> None:
        self.images, self.preprocess = images, preprocess

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> _Sample | BadImageError:
        try:
            return self.preprocess(self.images.image(i)), self.images.label(i)
        except BadImageError as error:
            return error


def _collate(samples: list[_Sample | BadImageError]) -> Any:
    return next((s for s in samples if isinstance(s, BadImageError)), None) or default_collate(samples)


def _unwrap(loader: Iterable[Any]) -> Iterator[tuple[Tensor, Tensor]]:
    for batch in loader:
        if isinstance(batch, BadImageError):
            raise batch
        yield batch[0], batch[1]


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


def _divide(images: ImageSet, split: str) -> ImageSet:
    half = len(images) // 2
    if not half:
        raise ValueError(f"{images.name} must hold at least 2 images to be divided, got {len(images)}")
    count = half if split in ("train", "heldout") else min(CALIBRATION_IMAGES, half)
    order = _spread(images.source.names, "split")
    return images.subset(sorted(order[:count] if split in ("calibration", "train") else order[count:]))


# ---- the demo scenes


@dataclass(frozen=True)
class _Scenes:
    split: str
    names: tuple[str, ...]

    def image(self, item: int) -> Image.Image:
        # training scenes are drawn anew each time: 20,000 of them would take 245 MB
        draw = scenes.render if self.split == "train" else _kept
        return Image.fromarray(draw(self.split, item).image)

    def mask(self, item: int) -> NDArray[np.bool_]:
        return scenes.render(self.split, item).mask


@lru_cache(maxsize=scenes.TEST_IMAGES + scenes.CALIBRATION_IMAGES)
def _kept(split: str, item: int) -> scenes.Scene:
    return scenes.render(split, item)


def _open_scenes(preprocess: Preprocess, num_classes: int, split: str) -> ImageSet:
    counts = {"calibration": scenes.CALIBRATION_IMAGES, "train": TRAIN_SCENES, "test": scenes.TEST_IMAGES}
    split = split if split in counts else "test"
    count = counts[split]
    shapes = scenes.CLASSES
    index_of, classes = match_folders("the demo data", shapes, shapes, preprocess, num_classes)
    folders = [shapes[i % len(shapes)] for i in range(count)]
    names = tuple(f"{folder}/{split}-{i:05d}" for i, folder in enumerate(folders))
    labels = tuple(index_of[folder] for folder in folders)
    return ImageSet("demo scenes", classes, _Scenes(split, names), labels, tuple(range(count)))


# ---- folders and zips


@dataclass(frozen=True)
class _Folder:
    root: Path
    names: tuple[str, ...]

    def image(self, item: int) -> Image.Image:
        return read_image(self.root / self.names[item], self.names[item])


def _existing(text: str) -> Path:
    with suppress(OSError, RuntimeError):  # a name the system cannot hold, an unknown ~user
        path = Path(text).expanduser()
        if text.strip() and (path.is_dir() or path.is_file()):
            return path
    raise ValueError(f"there is no file or folder {text!r}: {_ACCEPTED}")


def _open_files(name: str, path: Path, preprocess: Preprocess, num_classes: int) -> ImageSet:
    entries = _list_folder(path) if path.is_dir() else list_zip(path)
    where = path.name or str(path)
    top, names, folders = _layout(entries, where)
    used = sorted({name.partition("/")[0] for name in names})
    index_of, classes = match_folders(where, used, folders, preprocess, num_classes)
    labels = tuple(index_of[name.partition("/")[0]] for name in names)
    members = tuple(entries[top + name] for name in names)
    source = _Folder(path / top, names) if path.is_dir() else ZippedImages(path, names, members)
    return ImageSet(name, classes, source, labels, tuple(range(len(names))))


def _list_folder(path: Path) -> dict[str, str]:
    try:
        return {entry: entry for entry in _walk(str(path))}
    except OSError as error:
        raise ValueError(f"{error.filename} cannot be read: {error.strerror}") from error


def _walk(folder: str, prefix: str = "", above: frozenset[str] = frozenset()) -> Iterator[str]:
    """Files and folders below a folder, named as in a zip: a folder ends in a slash."""
    real = os.path.realpath(folder)
    if real in above:  # a link back up
        return
    with os.scandir(folder) as listing:
        for entry in listing:
            if entry.is_dir():
                yield f"{prefix}{entry.name}/"
                yield from _walk(entry.path, f"{prefix}{entry.name}/", above | {real})
            else:
                yield prefix + entry.name


def _layout(entries: Iterable[str], where: str) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    """Where the class folders lie, image names from there, and the class folders, both sorted.

    Class folders are those at the first level where there is more than one way to go.

    Raises:
        ValueError: no images, or no class folders.
    """
    shown = [entry for entry in entries if not _is_clutter(entry)]
    images = [entry for entry in shown if entry.lower().endswith(EXTENSIONS)]
    if not images:
        if any(entry.lower().endswith(".zip") for entry in shown):
            raise ValueError(f"{where} holds zips instead of images: open one of those zips itself")
        raise ValueError(f"{where} {'holds no images' if shown else 'is empty'}: {_ACCEPTED}")
    top = _top(images)
    names = sorted(image[len(top) :] for image in images if "/" in image[len(top) :])
    if not names:
        raise ValueError(
            f"{where} holds {len(images)} images but no class folders; each image must lie in the "
            "folder of its class, as class/name.jpg"
        )
    below = {entry[len(top) :] for entry in shown if entry.startswith(top)}
    return top, tuple(names), tuple(sorted({e.partition("/")[0] for e in below if "/" in e}))


def _is_clutter(entry: str) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in entry.split("/"))


def _top(images: Sequence[str]) -> str:
    """Folders that hold everything, above the class folders: `data/set/` of data/set/cat/1.jpg."""
    top = ""
    while True:
        rest = [image[len(top) :] for image in images]
        first = rest[0].partition("/")[0] + "/"
        if not all(image.startswith(first) and image.count("/") > 1 for image in rest):
            return top
        top += first


# ---- CIFAR-10


def _find_cifar10(folder: Path, side: str) -> tuple[str, Path]:
    """Name and path of the train or test side.

    Raises:
        ValueError: not there, or only as pickles.
    """
    # the JPEG copies are another data set than the lossless original: the name says so
    for name, path in (
        ("CIFAR-10 (JPEG)", folder / f"cifar10-jpeg-{side}.zip"),
        ("CIFAR-10", folder / side),
    ):
        if path.exists():
            return name, path
    needed = f"cifar10:FOLDER needs cifar10-jpeg-{side}.zip or {side}/ with class folders in FOLDER"
    if folder.name == "cifar-10-batches-py" or (folder / "cifar-10-batches-py").exists():
        raise ValueError(
            f"{needed}; cifar-10-batches-py holds pickles, which can run code and are never read"
        )
    raise ValueError(f"{needed}, found neither in {str(folder)!r}")
