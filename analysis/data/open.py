"""Open image sets by name and split them into calibration, training and test images."""

from __future__ import annotations

from pathlib import Path

from analysis.data import scenes
from analysis.data.folders import existing_path, find_cifar10, listed_classes, open_files, open_part
from analysis.data.image_set import ImageSet, SceneSource, stratified_order
from analysis.data.labels import match_folders
from analysis.data.overlap import require_apart
from analysis.models import Preprocess

SPLITS = ("all", "calibration", "test", "train", "heldout", "learn")
CALIBRATION_IMAGES = 512  # at most, and never more than half of a set
TRAIN_SCENES = 20_000  # as many as a few minutes of training use


def open_data(spec: str | Path, preprocess: Preprocess, num_classes: int, split: str = "all") -> ImageSet:
    """Open images for a model with these classes (`num_classes` 0: no head, any images are accepted).

    `spec` is `demo`, a folder of class folders, a zip of one, images with a table of their classes
    (tables.py), parquet files (parquet.py), or `cifar10:FOLDER`, a folder with cifar10-jpeg-train.zip and
    cifar10-jpeg-test.zip, or train/ and test/.

    Splits `calibration` and `test` are disjoint. The demo scenes, CIFAR-10, and folders and zips that hold
    train/ and val/ (splits.py) are already split (`all` is then `test`). Of another folder or zip,
    `calibration` is up to `CALIBRATION_IMAGES` and at most half of the images, stratified by class and chosen
    by a hash of their names [ours]. For training, `train` and `heldout` are disjoint: of such a folder or
    zip, `train` is one half of the images, including those of `calibration`, and `heldout` the other;
    otherwise `heldout` is `test`, and `train` the training images (`TRAIN_SCENES` of the demo).
    `learn` is what can be learned from where another set is tested on: `all`, but of folders and zips that
    are split the training images.

    Class folders are matched to labels by `labels.match_folders`.

    Raises:
        ValueError: no usable images, not safe to open, or classes that are not the model's.
    """
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
    text = str(spec)
    if text == "demo":
        return _open_scenes(preprocess, num_classes, split)
    scheme, _, folder = text.partition("cifar10:")
    if folder and not scheme:
        side = "train" if split in ("calibration", "train") else "test"
        name, path = find_cifar10(existing_path(folder), side)
        return open_files(name, path, preprocess, num_classes)
    path, learn = existing_path(text), split in ("calibration", "train", "learn")
    images, divided = open_part(path.name or text, path, preprocess, num_classes, learn)
    if split == "calibration" and divided:
        return images.sample(CALIBRATION_IMAGES)
    return images if divided or split in ("all", "learn") else _divide(images, split)


def class_folders(spec: str) -> tuple[str, ...]:
    """The class folders of images, sorted, which is the order that most tools number classes in.

    Classes that the data number themselves are in the order of their numbers.

    Raises:
        ValueError: as `open_data`.
    """
    scheme, _, folder = spec.partition("cifar10:")
    if spec == "demo":
        return tuple(sorted(scenes.CLASSES))
    if folder and not scheme:
        return listed_classes(find_cifar10(existing_path(folder), "train")[1])
    return listed_classes(existing_path(spec))


def open_training(
    spec: str, preprocess: Preprocess, num_classes: int, test: str | None = None
) -> tuple[ImageSet, ImageSet]:
    """Training and test images: `train` and `heldout` of one set, or all images of two sets.

    Raises:
        ValueError: as `open_data`, or two sets that share images.
    """
    if test is None:
        train, heldout = (open_data(spec, preprocess, num_classes, split) for split in ("train", "heldout"))
        if train.name != heldout.name:  # divided by someone else
            require_apart(train, heldout)
        return train, heldout
    if test == spec:
        raise ValueError(f"test and training images must differ, got {spec!r} for both")
    divided = spec == "demo" or spec.startswith("cifar10:")
    train = open_data(spec, preprocess, num_classes, "train" if divided else "learn")
    heldout = open_data(test, preprocess, num_classes)
    require_apart(train, heldout)
    return train, heldout


def _divide(images: ImageSet, split: str) -> ImageSet:
    half = len(images) // 2
    if not half:
        raise ValueError(f"{images.name} must have at least 2 images to be split, got {len(images)}")
    count = half if split in ("train", "heldout") else min(CALIBRATION_IMAGES, half)
    order = stratified_order(images.source.names, "split")
    return images.subset(sorted(order[:count] if split in ("calibration", "train") else order[count:]))


def _open_scenes(preprocess: Preprocess, num_classes: int, split: str) -> ImageSet:
    counts = {"calibration": scenes.CALIBRATION_IMAGES, "train": TRAIN_SCENES, "test": scenes.TEST_IMAGES}
    split = split if split in counts else "test"
    count = counts[split]
    shapes = scenes.CLASSES
    index_of, classes = match_folders("the demo data", shapes, shapes, preprocess, num_classes)
    folders = [shapes[i % len(shapes)] for i in range(count)]
    names = tuple(f"{folder}/{split}-{i:05d}" for i, folder in enumerate(folders))
    labels = tuple(index_of[folder] for folder in folders)
    return ImageSet("demo scenes", classes, SceneSource(split, names), labels, tuple(range(count)))
