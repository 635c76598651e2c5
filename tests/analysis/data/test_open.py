"""Images come with the right label, from wherever they lie; harmful or useless data is refused."""

from __future__ import annotations

import io
import os
import pickle
import struct
import threading
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from analysis.data import listing, scenes, zips
from analysis.data import open as opening
from analysis.data.batches import batches
from analysis.data.image_set import ImageSet
from analysis.data.images import FORMATS, BadImageError
from analysis.data.labels import UnnamedClassesError
from analysis.data.open import SPLITS, TRAIN_SCENES, class_folders, open_training
from analysis.models.preprocess import Preprocess

PLAIN = Preprocess((8, 8))
PETS = Preprocess((8, 8), labels=("zebra", "cat", "great dane"))


def picture(colour: tuple[int, int, int]) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(buffer, "PNG")
    return buffer.getvalue()


def many(classes: dict[str, int]) -> dict[str, bytes]:
    """So many images of each class; image number n is of colour (n, 0, 0)."""
    return {
        f"{name}/{n:03d}.png": picture((n, 0, 0)) for name, count in classes.items() for n in range(count)
    }


def make_folder(root: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def make_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


Make = Callable[[Path, dict[str, bytes]], Path]
both = pytest.mark.parametrize("make", [make_folder, make_zip])


def open_data(spec: str | Path, preprocess: Preprocess, num_classes: int, split: str = "all") -> ImageSet:
    """Where a test names no classes, they are the sorted folders, as `--classes-file sorted` has it."""
    try:
        return opening.open_data(spec, preprocess, num_classes, split)
    except UnnamedClassesError as error:
        return opening.open_data(spec, replace(preprocess, labels=error.folders), num_classes, split)


def names(images: ImageSet) -> list[str]:
    return [images.item_name(i) for i in range(len(images))]


def labels(images: ImageSet) -> dict[str, int]:
    return {images.item_name(i): images.label(i) for i in range(len(images))}


def shares(images: ImageSet) -> dict[str, int]:
    return dict(Counter(name.partition("/")[0] for name in names(images)))


# ---- the demo


def test_demo_scenes() -> None:
    images = open_data("demo", Preprocess((64, 64), labels=scenes.CLASSES), 10, "test")
    assert (len(images), images.classes) == (scenes.TEST_IMAGES, scenes.CLASSES)
    scene = scenes.render("test", 13)
    assert np.array_equal(np.asarray(images.image(13)), scene.image)
    mask = images.mask(13)
    assert mask is not None and np.array_equal(mask, scene.mask)
    assert (images.label(13), images.item_name(13)) == (3, "pentagon/test-00013")


def test_demo_splits() -> None:
    calibration = open_data("demo", PLAIN, 10, "calibration")
    assert len(calibration) == scenes.CALIBRATION_IMAGES
    assert np.array_equal(np.asarray(calibration.image(5)), scenes.render("calibration", 5).image)
    train = open_data("demo", PLAIN, 10, "train")
    assert train.rendered and len(train) == TRAIN_SCENES and train.item_name(12) == "square/train-00012"
    assert np.array_equal(np.asarray(train.image(12)), scenes.render("train", 12).image)
    assert names(open_data("demo", PLAIN, 10, "heldout")) == names(open_data("demo", PLAIN, 10, "test"))
    assert names(open_data("demo", PLAIN, 10)) == names(open_data("demo", PLAIN, 10, "test"))


def test_demo_labels_follow_the_model() -> None:
    turned = Preprocess((64, 64), labels=(*scenes.CLASSES[::-1], "none"))
    images = open_data("demo", turned, 11)
    assert images.label(0) == 9 and images.classes[9] == "circle"
    with pytest.raises(ValueError, match=r"^the demo data has 10 class folders .* which has 1000 classes"):
        open_data("demo", PLAIN, 1000)


# ---- folders and zips


@both
def test_class_folders(make: Make, tmp_path: Path) -> None:
    files = {
        "b/2.png": picture((0, 2, 0)),
        "b/sub/deep/1.PNG": picture((0, 1, 0)),
        "a/0.png": picture((9, 0, 0)),
    }
    images = open_data(make(tmp_path / "set", {**files, "a/notes.txt": b"x"}), PLAIN, 2)
    assert labels(images) == {"a/0.png": 0, "b/2.png": 1, "b/sub/deep/1.PNG": 1}
    assert images.name == "set" and images.classes == ("a", "b") and images.mask(0) is None
    assert [images.image(i).getpixel((0, 0)) for i in range(3)] == [(9, 0, 0), (0, 2, 0), (0, 1, 0)]


@both
def test_folders_above_the_classes_and_clutter(make: Make, tmp_path: Path) -> None:
    files = {f"pets/all/{name}": data for name, data in many({"cat": 2, "dog": 1}).items()}
    clutter = ("__MACOSX/pets/cover.png", "pets/.DS_Store", "pets/all/cat/Thumbs.db", "pets/.x/1.png")
    images = open_data(make(tmp_path / "set", {**files, **dict.fromkeys(clutter, b"x")}), PLAIN, 2)
    assert names(images) == ["cat/000.png", "cat/001.png", "dog/000.png"]
    assert images.image(1).getpixel((0, 0)) == (1, 0, 0)


def test_zip_with_backslashes_and_dots(tmp_path: Path) -> None:
    files = {"./cat/0.png": picture((1, 1, 1)), "dog\\0.png": picture((2, 2, 2))}
    images = open_data(make_zip(tmp_path / "set.zip", files), PLAIN, 2)
    assert names(images) == ["cat/0.png", "dog/0.png"]
    assert images.image(1).getpixel((0, 0)) == (2, 2, 2)


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    make_folder(tmp_path / "elsewhere", {"0.png": picture((5, 5, 5))})
    root = make_folder(tmp_path / "set", many({"cat": 1}))
    (root / "dog").symlink_to(tmp_path / "elsewhere")
    (root / "cat" / "loop").symlink_to(root)
    assert names(open_data(root, PLAIN, 2)) == ["cat/000.png", "dog/0.png"]


def test_subset_keeps_everything(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "set", many({"cat": 3, "dog": 3}))
    images = open_data(str(root), PLAIN, 2)
    part = images.subset([5, 1, 3]).subset([1, 0])
    assert names(part) == ["cat/001.png", "dog/002.png"]
    assert [part.label(0), part.label(1)] == [0, 1] and part.image(1).getpixel((0, 0)) == (2, 0, 0)
    assert (part.name, part.classes) == (images.name, images.classes)
    demo = open_data("demo", PLAIN, 10).subset([7])
    mask = demo.mask(0)
    assert mask is not None and np.array_equal(mask, scenes.render("test", 7).mask)


# ---- division and sampling


@both
def test_division_is_disjoint_balanced_and_depends_on_names_alone(make: Make, tmp_path: Path) -> None:
    path = make(tmp_path / "set", many({"cat": 10, "dog": 10, "emu": 4}))
    calibration, test = (open_data(path, PLAIN, 3, split) for split in ("calibration", "test"))
    assert shares(calibration) == shares(test) == {"cat": 5, "dog": 5, "emu": 2}
    assert sorted(names(calibration) + names(test)) == names(open_data(path, PLAIN, 3))
    assert sorted(names(calibration)) == names(calibration)
    assert names(calibration) != names(open_data(path, PLAIN, 3))[:12]
    again = make_folder(tmp_path / "again", {f"top/{n}": b"" for n in many({"cat": 10, "dog": 10, "emu": 4})})
    assert names(open_data(again, PLAIN, 3, "calibration")) == names(calibration)


def test_division_with_one_image_a_class(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "set", many({f"{i}": 1 for i in range(9)}))
    calibration, test = (open_data(root, PLAIN, 9, split) for split in ("calibration", "test"))
    assert len(calibration) == 4 and len(test) == 5
    assert not set(names(calibration)) & set(names(test))
    with pytest.raises(ValueError, match=r"set must have at least 2 images to be split, got 1$"):
        open_data(make_folder(tmp_path / "one" / "set", many({"0": 1})), PLAIN, 9, "test")


def test_calibration_is_bounded(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "a.zip", {f"{i % 4}/{i}.png": b"" for i in range(1200)})
    calibration, test = (open_data(path, PLAIN, 4, split) for split in ("calibration", "test"))
    assert shares(calibration) == {"0": 128, "1": 128, "2": 128, "3": 128} and len(test) == 688


@both
def test_division_for_training(make: Make, tmp_path: Path) -> None:
    path = make(tmp_path / "set", many({"cat": 800, "dog": 800}))
    parts = {split: set(names(open_data(path, PLAIN, 2, split))) for split in SPLITS}
    assert len(parts["train"]) == len(parts["heldout"]) == 800
    assert parts["train"] | parts["heldout"] == parts["all"] and not parts["train"] & parts["heldout"]
    assert parts["calibration"] < parts["train"] and parts["heldout"] < parts["test"]


def test_sample_is_spread_and_seeded(tmp_path: Path) -> None:
    images = open_data(make_folder(tmp_path, many({"a": 12, "b": 12, "c": 6})), PLAIN, 3)
    sample = images.sample(10)
    assert shares(sample) == {"a": 4, "b": 4, "c": 2} and len(set(names(sample))) == 10
    assert names(sample) == names(images.sample(10))
    assert names(images.sample(3)) == names(sample)[:3] and len(shares(images.sample(5))) == 3
    assert names(sample) != names(images.sample(10, seed=1))
    assert sorted(names(images.sample(999))) == names(images)
    with pytest.raises(ValueError, match=r"a sample needs at least 1 image, got 0"):
        images.sample(0)


def test_sample_of_classes_of_unequal_size(tmp_path: Path) -> None:
    images = open_data(make_folder(tmp_path, many({"a": 40, "b": 20, "c": 1})), PLAIN, 3)
    for seed in range(5):
        assert shares(images.sample(9, seed)) == {"a": 6, "b": 3}  # the one of c comes half way
        assert shares(images.sample(31, seed)) == {"a": 20, "b": 10, "c": 1}


# ---- labels


def tiny(tmp_path: Path, folders: Iterable[str]) -> Path:
    return make_zip(tmp_path / "set.zip", {f"{folder}/0.png": b"" for folder in folders})


def test_wordnet_ids(tmp_path: Path) -> None:
    images = open_data(tiny(tmp_path, ["n03888257", "n01440764"]), PLAIN, 1000)
    assert labels(images) == {"n01440764/0.png": 0, "n03888257/0.png": 701}
    assert len(images.classes) == 1000 and images.classes[701].startswith("parachute")
    with pytest.raises(ValueError, match=r"n00000001 are not among the 1000 WordNet ids of ImageNet-1k"):
        open_data(tiny(tmp_path, ["n00000001", "n01440764"]), PLAIN, 1000)


def test_names_of_the_model(tmp_path: Path) -> None:
    images = open_data(tiny(tmp_path, ["Great_Dane", "CAT"]), PETS, 3)
    assert labels(images) == {"CAT/0.png": 1, "Great_Dane/0.png": 2} and images.classes == PETS.labels


def test_numbers(tmp_path: Path) -> None:
    images = open_data(tiny(tmp_path, ["11", "2", "003"]), PLAIN, 12)
    assert labels(images) == {"003/0.png": 3, "11/0.png": 11, "2/0.png": 2}
    assert images.classes[11] == "class 11"


def test_a_number_of_thousands_of_digits_is_no_class(tmp_path: Path) -> None:
    packed = make_zip(tmp_path / "set.zip", {"9" * 5000 + "/0.png": b"", "1/0.png": b""})
    with pytest.raises(ValueError, match="none of them a class of the model"):
        open_data(packed, PETS, 3)


def test_sorted_order(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "set.zip", {"b/0.png": b"", "c/0.png": b"", "a/": b""})
    assert labels(open_data(path, PLAIN, 3)) == {"b/0.png": 1, "c/0.png": 2}  # an empty class counts
    assert labels(open_data(path, PLAIN, 2)) == {"b/0.png": 0, "c/0.png": 1}
    unnamed = Preprocess((8, 8), labels=("LABEL_0", "LABEL_1"))
    assert open_data(path, unnamed, 2).classes == ("b", "c")


@both
def test_model_without_head_needs_no_folders(make: Make, tmp_path: Path) -> None:
    """Its images are then of one class; beside class folders they are no images of the set, as ever."""
    red = picture((255, 0, 0))
    flat = make(tmp_path / "flat.zip", {"a.png": red, "b.png": red, "c.png": red, "notes.txt": b"x"})
    images = open_data(flat, PLAIN, 0)
    assert (names(images), images.classes) == (
        ["unlabelled/a.png", "unlabelled/b.png", "unlabelled/c.png"],
        ("unlabelled",),
    )
    assert next(iter(batches(images, PLAIN, 3)))[0].shape[0] == 3
    parts = [open_data(flat, PLAIN, 0, split) for split in ("calibration", "test")]
    assert sorted(name for part in parts for name in names(part)) == names(images)
    mixed = make(tmp_path / "mixed.zip", {"a.png": red, "cat/b.png": red})
    assert names(open_data(mixed, PLAIN, 0)) == ["cat/b.png"]


def test_model_without_head_takes_any_folders(tmp_path: Path) -> None:
    assert labels(open_data(tiny(tmp_path, ["x", "y"]), PLAIN, 0)) == {"x/0.png": 0, "y/0.png": 1}


@pytest.mark.parametrize(
    ("folders", "preprocess", "count", "message"),
    [
        (
            ["cat", "dog"],
            PLAIN,
            3,
            r"has 2 class folders \(cat, dog\), none .* has 3 classes: .* numbers from 0 to 2",
        ),
        (
            ["a", "b", "c"],
            PETS,
            3,
            r"none of them a class of the model, which has 3 classes \(zebra, cat, great",
        ),
        (["cat", "dog"], PETS, 3, r"class folders that are not classes of the model \(dog\)"),
        (
            ["crane"],
            Preprocess((8, 8), labels=("crane", "crane")),
            2,
            r"set\.zip has 1 class folders \(crane\)",
        ),
        (["1", "2", "3", "4"], PLAIN, 3, r"has 4 class folders \(1, 2, 3, 4\), none"),
        (["cat"], PLAIN, 1000, r"WordNet ids such as n01440764 or with numbers from 0 to 999$"),
    ],
)
def test_other_classes(
    folders: list[str], preprocess: Preprocess, count: int, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        open_data(tiny(tmp_path, folders), preprocess, count)


# ---- CIFAR-10


def test_cifar10_sides(tmp_path: Path) -> None:
    make_zip(tmp_path / "cifar10-jpeg-train.zip", many({"cat": 3, "dog": 3}))
    make_zip(tmp_path / "cifar10-jpeg-test.zip", many({"cat": 1, "dog": 2}))
    sizes = {s: len(open_data(f"cifar10:{tmp_path}", PLAIN, 2, s)) for s in SPLITS}
    assert sizes == {"all": 3, "calibration": 6, "test": 3, "train": 6, "heldout": 3, "learn": 3}
    assert open_data(f"cifar10:{tmp_path}", PLAIN, 2).name == "CIFAR-10 (JPEG)"


def test_cifar10_folders(tmp_path: Path) -> None:
    make_folder(tmp_path / "train", many({"cat": 3, "dog": 3}))
    assert len(open_data(f"cifar10:{tmp_path}", PLAIN, 2, "calibration")) == 6
    with pytest.raises(ValueError, match=r"needs cifar10-jpeg-test\.zip or test/ .* neither is in"):
        open_data(f"cifar10:{tmp_path}", PLAIN, 2, "test")


def test_cifar10_pickles_are_refused(tmp_path: Path) -> None:
    (tmp_path / "cifar-10-batches-py").mkdir()
    for folder in (tmp_path, tmp_path / "cifar-10-batches-py"):
        with pytest.raises(
            ValueError, match=r"contains pickles, which are not read because they can run code"
        ):
            open_data(f"cifar10:{folder}", PLAIN, 10)


# ---- refused


@pytest.mark.parametrize(
    "spec", ["", "no/such/set", "cifar10:", "cifar10:no/such", "a\0b", "x" * 5000, "~nobody!/a"]
)
def test_missing(spec: str) -> None:
    with pytest.raises(
        ValueError, match=r"there is no file or folder .*: data must be 'demo', a folder of class folders"
    ):
        open_data(spec, PLAIN, 2)


def test_unknown_split() -> None:
    with pytest.raises(ValueError, match=r"split must be one of all, .*, train, heldout, learn, got 'best'$"):
        open_data("demo", PLAIN, 10, "best")


@both
@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, r"is empty: data must be"),
        ({"readme.txt": b"x"}, r"contains no images: data must be"),
        ({"a.png": b"", "b.png": b""}, r"contains 2 images but no class folders; .* as class/name\.jpg$"),
        (
            {"a/train.zip": b"", "test.ZIP": b""},
            r"contains zips instead of images: open one of the zips instead$",
        ),
    ],
)
def test_no_images(make: Make, files: dict[str, bytes], message: str, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    path = make(tmp_path / "sub" if make is make_folder else tmp_path / "sub" / "a.zip", files)
    with pytest.raises(ValueError, match=message):
        open_data(path, PLAIN, 2)


def test_no_zip(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"no zip at all")
    with pytest.raises(
        ValueError, match=r"^a\.tar is not a zip: images come in a folder or in a zip of one$"
    ):
        open_data(tmp_path / "a.tar", PLAIN, 2)


def test_truncated_zip(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "a.zip", many({"cat": 5, "dog": 5}))
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(ValueError, match=r"^a\.zip is a damaged or truncated zip \("):
        open_data(path, PLAIN, 2)


def test_encrypted_zip(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "a.zip", many({"cat": 1}))
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    with pytest.raises(
        ValueError, match=r"^a\.zip is encrypted: create a zip of the images without a password$"
    ):
        open_data(path, PLAIN, 2)


@pytest.mark.parametrize(
    "name",
    [
        "../cat/1.png",
        "cat/../../1.png",
        "/cat/1.png",
        "C:/cat/1.png",
        "..\\cat\\1.png",
        "\\\\host\\cat\\1.png",
    ],
)
def test_zip_that_climbs_out(name: str, tmp_path: Path) -> None:
    path = make_zip(tmp_path / "a.zip", {**many({"cat": 1, "dog": 1}), name: picture((0, 0, 0))})
    with pytest.raises(ValueError, match=r"^a\.zip is not safe to open: .* leads out of the zip$"):
        open_data(path, PLAIN, 2)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.zip"]


def test_compression_bomb(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "a.zip", {"cat/1.png": bytes(3 * 2**20)})
    with pytest.raises(
        ValueError, match=r"not safe to open: .* KiB unpack to 3 MiB, the limit is 200 times as much$"
    ):
        open_data(path, PLAIN, 1)


def declare(path: Path, size: int) -> None:
    """Let the table of contents claim that each member unpacks to `size` bytes."""
    data = bytearray(path.read_bytes())
    place = data.find(b"PK\x01\x02")
    while place >= 0:
        struct.pack_into("<II", data, place + 20, size // 10, size)
        place = data.find(b"PK\x01\x02", place + 4)
    path.write_bytes(data)


def test_zip_that_declares_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_zip(tmp_path / "a.zip", many({"cat": 40}))
    declare(path, 2 * 2**30)
    with pytest.raises(
        ValueError, match=r"^a\.zip is not safe to open: it unpacks to 80 GiB, the limit is 64 GiB$"
    ):
        open_data(path, PLAIN, 1)
    path = make_zip(tmp_path / "a.zip", many({"cat": 1}))
    declare(path, 300 * 2**20)
    monkeypatch.setattr(zips, "MAX_COMPRESSION", 10**9)
    with pytest.raises(ValueError, match=r"'cat/000\.png' .* unpacks to 300 MiB, the limit is 256 MiB$"):
        open_data(path, PLAIN, 1)


def test_overlapping_members(tmp_path: Path) -> None:
    # each member keeps to the bounds, but all are the same few bytes of the file
    path = make_zip(tmp_path / "a.zip", many({"cat": 40}))
    declare(path, 100 * 2**10)
    with pytest.raises(
        ValueError, match=r"^a\.zip is not safe to open: .* unpack to 3\.91 MiB, the limit is 200 times"
    ):
        open_data(path, PLAIN, 1)


# ---- damaged images


def test_corrupt_image_in_the_middle(tmp_path: Path) -> None:
    files = {**many({"cat": 3, "dog": 3}), "cat/001.png": b"no image"}
    for path in (make_folder(tmp_path / "set", files), make_zip(tmp_path / "set.zip", files)):
        images = open_data(path, PLAIN, 2)
        with pytest.raises(BadImageError, match=r"^cat/001\.png.* is not an image"):
            images.image(1)
        rest = batches(images, PLAIN, batch_size=1)
        next(rest)
        with pytest.raises(BadImageError, match=r"^cat/001\.png"):
            next(rest)


def test_damaged_member(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "a.zip", many({"cat": 2}))
    data = bytearray(path.read_bytes())
    data[data.index(b"cat/001.png") + 20] ^= 255
    path.write_bytes(data)
    images = open_data(path, PLAIN, 1)
    assert images.image(0).size == (8, 8)
    with pytest.raises(BadImageError, match=r"^cat/001\.png in a\.zip cannot be read: [^\n]+$"):
        images.image(1)
    path.unlink()
    fresh = pickle.loads(pickle.dumps(images))
    with pytest.raises(BadImageError, match=r"^cat/000\.png in a\.zip cannot be read: .*No such file"):
        fresh.image(0)


# ---- threads, processes, batches


@pytest.fixture
def zipped(tmp_path: Path) -> ImageSet:
    return open_data(make_zip(tmp_path / "a.zip", many({"cat": 40, "dog": 20})), PLAIN, 2)


def seen(images: ImageSet) -> list[int]:
    """How red the images are."""
    return [int(np.asarray(images.image(i))[0, 0, 0]) for i in range(len(images))]


def reds(images: ImageSet) -> list[int]:
    """How red they should be, by their names."""
    return [int(images.item_name(i)[4:7]) for i in range(len(images))]


def test_zip_is_read_from_many_threads(zipped: ImageSet) -> None:
    start = threading.Barrier(4)

    def read(_: int) -> list[int]:
        start.wait()
        return seen(zipped)

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(read, range(4))) == [reds(zipped)] * 4


def test_zip_survives_pickling_and_opens_once(zipped: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    zipped.image(0)
    copy = pickle.loads(pickle.dumps(zipped))
    opened = []

    class Noted(zipfile.ZipFile):
        def __init__(self, path: Path) -> None:
            opened.append(path)
            super().__init__(path)

    monkeypatch.setattr("analysis.data.zips.zipfile.ZipFile", Noted)
    assert seen(copy) == reds(zipped)
    assert len(opened) == 1


def test_batches(zipped: ImageSet) -> None:
    found = list(batches(zipped, PLAIN, batch_size=25))
    assert [images.shape for images, _ in found] == [(25, 3, 8, 8), (25, 3, 8, 8), (10, 3, 8, 8)]
    assert torch.cat([label for _, label in found]).tolist() == [0] * 40 + [1] * 20
    assert found[0][1].dtype == torch.int64
    expected = torch.stack([PLAIN(zipped.image(i)) for i in range(25)])
    torch.testing.assert_close(found[0][0], expected, rtol=0, atol=0)


def test_batches_in_worker_processes(zipped: ImageSet) -> None:
    zipped.image(0)  # an open archive must not be shared with the workers
    alone, helped = (list(batches(zipped, PLAIN, 8, workers=workers)) for workers in (0, 2))
    torch.testing.assert_close(helped, alone, rtol=0, atol=0)


def test_worker_reports_a_bad_image_in_one_sentence(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "a.zip", {**many({"cat": 3}), "cat/002.png": b"no image"})
    with pytest.raises(BadImageError, match=r"^cat/002\.png in a\.zip is not an image: [^\n]+$"):
        list(batches(open_data(path, PLAIN, 1), PLAIN, 2, workers=1))


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_too_narrow_for_the_model_is_one_sentence(workers: int, tmp_path: Path) -> None:
    narrow = io.BytesIO()
    Image.new("RGB", (1, 100)).save(narrow, "PNG")
    path = make_folder(tmp_path / "a", {**many({"cat": 2}), "cat/x.png": narrow.getvalue()})
    wide = Preprocess((2000, 2000))
    with pytest.raises(ValueError, match=r"^an image of 1 x 100 pixels would be resized [^\n]+$"):
        list(batches(open_data(path, wide, 1), wide, 1, workers=workers))


def test_a_file_without_a_name_in_a_zip_is_no_image(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "a.zip", many({"cat": 2}))
    packed = bytearray(path.read_bytes())
    start = packed.rindex(b"PK\x01\x02")  # of the last file's entry, whose name becomes part of its comment
    size = int.from_bytes(packed[start + 28 : start + 30], "little")
    packed[start + 28 : start + 30] = bytes(2)
    packed[start + 32 : start + 34] = size.to_bytes(2, "little")
    path.write_bytes(packed)
    assert len(open_data(path, PLAIN, 1)) == 1


def test_limit_takes_a_sample(zipped: ImageSet) -> None:
    ((images, label),) = batches(zipped, PLAIN, limit=6)
    assert sorted(label.tolist()) == [0, 0, 0, 0, 1, 1]
    sample = zipped.sample(6)
    torch.testing.assert_close(
        images, torch.stack([PLAIN(sample.image(i)) for i in range(6)]), rtol=0, atol=0
    )
    in_order = torch.cat([label for _, label in batches(zipped, PLAIN, limit=60)])
    assert in_order.tolist() == [0] * 40 + [1] * 20


def test_batches_leave_the_global_random_stream(zipped: ImageSet) -> None:
    before = torch.get_rng_state()
    next(batches(zipped, PLAIN, limit=4))
    assert torch.equal(torch.get_rng_state(), before)


def test_nothing_to_batch(zipped: ImageSet) -> None:
    with pytest.raises(ValueError, match=r"^a\.zip: there are no images$"):
        batches(zipped.subset([]), PLAIN)
    with pytest.raises(ValueError, match=r"a sample needs at least 1 image, got 0"):
        batches(zipped, PLAIN, limit=0)


# ---- real data


def test_real_zips() -> None:
    given = os.environ.get("PRUNESCOPE_DATA")
    folder = Path(given) if given else Path(__file__).parents[4] / "shared" / "data"
    if not (folder / "imagenet-val-650.zip").exists():
        pytest.skip("needs imagenet-val-650.zip in PRUNESCOPE_DATA")
    images = open_data(folder / "imagenet-val-650.zip", PLAIN, 1000)
    assert len(images) == 650
    assert all(0 <= label < 1000 for label in labels(images).values())
    assert labels(images)["n02951358/ILSVRC2012_val_00000347.JPEG"] == 472
    assert images.classes[472].startswith("canoe")
    assert images.image(0).size == (227, 227)


# ---- sets that come divided

DIVIDED = {
    **{f"train/{name}": data for name, data in many({"cat": 4, "zebra": 3}).items()},
    **{f"val/{name}": picture((200 + n, 0, 0)) for n, name in enumerate(many({"cat": 2, "zebra": 2}))},
}


@both
def test_train_and_val_are_parts_and_no_classes(make: Make, tmp_path: Path) -> None:
    """The commonest layout with the commonest task: two classes, whose model does not know their names."""
    path = make(tmp_path / "set", DIVIDED)
    for split in ("train", "calibration", "learn"):
        images = open_data(path, PLAIN, 2, split)
        assert images.name == "set/train" and images.classes == ("cat", "zebra")
        assert shares(images) == {"cat": 4, "zebra": 3}
    for split in ("test", "heldout", "all"):
        images = open_data(path, PLAIN, 2, split)
        assert images.name == "set/val" and images.classes == ("cat", "zebra")
        assert labels(images) == {
            "cat/000.png": 0,
            "cat/001.png": 0,
            "zebra/000.png": 1,
            "zebra/001.png": 1,
        }
        assert images.image(0).getpixel((0, 0)) == (200, 0, 0)
    train, test = open_training(str(path), named("cat", "zebra"), 2)
    assert (train.name, test.name) == ("set/train", "set/val")
    other = make(
        tmp_path / "other", {f"{name}/1.png": picture((0, 9, n)) for n, name in enumerate(("cat", "zebra"))}
    )
    learned, _ = open_training(str(path), named("cat", "zebra"), 2, str(other))
    assert learned.name == "set/train"


@both
def test_val_is_tested_on_before_test_and_may_lack_classes(make: Make, tmp_path: Path) -> None:
    more = {f"Test/{name}": data for name, data in many({"cat": 1}).items()}
    only = {"val/zebra/1.png": picture((1, 2, 3))}
    learn = {name: data for name, data in DIVIDED.items() if name.startswith("train")}
    path = make(tmp_path / "both", {f"pets/{name}": data for name, data in {**learn, **more, **only}.items()})
    assert labels(open_data(path, PLAIN, 2)) == {"zebra/1.png": 1}
    path = make(tmp_path / "test", {**learn, **more})
    assert open_data(path, PLAIN, 2).name == "test/Test" and len(open_data(path, PLAIN, 2, "train")) == 7
    assert labels(open_data(path, PETS, 3)) == {"cat/000.png": 1}


def test_classes_that_are_called_like_parts_stay_classes(tmp_path: Path) -> None:
    trains = Preprocess((8, 8), labels=("test", "train"))
    images = open_data(make_folder(tmp_path / "set", many({"train": 1, "test": 1})), trains, 2)
    assert labels(images) == {"train/000.png": 1, "test/000.png": 0}
    images = open_data(make_folder(tmp_path / "more", many({"train": 1, "bus": 1})), PLAIN, 2)
    assert images.classes == ("bus", "train")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (many({"train": 2, "val": 2}), r"^set holds train and val, but not with the same class folders: "),
        ({**DIVIDED, "val/dog/1.png": b""}, r"^set holds train and val, but not with the same class folders"),
        (
            {f"{part}/cat/1.png": b"" for part in ("val", "test")},
            r"^set holds test and val, but no part to learn from: .*as train/cat/1\.jpg$",
        ),
        (
            {f"{part}/cat/1.png": b"" for part in ("train", "training")},
            r"^set holds train and training, but no part to test on: ",
        ),
    ],
)
def test_parts_that_do_not_fit_are_refused(files: dict[str, bytes], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        open_data(make_folder(tmp_path / "set", files), PLAIN, 2)


def test_parts_that_share_images_are_refused_before_training(tmp_path: Path) -> None:
    learn = {name: data for name, data in DIVIDED.items() if name.startswith("train")}
    same = {name.replace("train", "val"): data for name, data in learn.items()}
    path = make_folder(tmp_path / "set", {**learn, **same})
    with pytest.raises(ValueError, match=r"test images of set/val .* are also in set/train"):
        open_training(str(path), named("cat", "zebra"), 2)


# ---- what is assumed, and what is left out


def named(*labels: str) -> Preprocess:
    return Preprocess((8, 8), labels=labels)


def deep(values: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(values.astype(np.uint16)).save(buffer, "PNG")
    return buffer.getvalue()


@both
@pytest.mark.parametrize(
    ("bits", "white", "note"),
    [(10, 1023, "10 bits"), (12, 4095, "12 bits"), (14, 16383, "14 bits"), (16, 65535, None)],
)
def test_scans_of_few_bits_are_not_black(
    make: Make, bits: int, white: int, note: str | None, tmp_path: Path
) -> None:
    """A 12-bit X-ray in a 16-bit file: shades are those of 12 bits, alike in all images of the set."""
    ramp = np.tile(np.linspace(0, white, 8), (8, 1))
    files = {"sick/1.png": deep(ramp), "sound/1.png": deep(ramp // 2), "sound/2.png": deep(ramp)}
    images = open_data(make(tmp_path / "set", files), named("sick", "sound"), 2)
    for place, share in ((0, 1.0), (1, 0.5)):
        got = np.asarray(images.image(place))[0, :, 0]
        assert np.abs(got - share * np.linspace(0, 255, 8)).max() <= 1
    assert images.notes == (() if note is None else (f"the greyscale images of set are read as of {note}",))
    assert images.sample(2).notes == images.notes


def test_greyscale_of_eight_bits_and_dark_colours_are_read_as_they_are(tmp_path: Path) -> None:
    grey = io.BytesIO()
    Image.new("L", (8, 8), 40).save(grey, "PNG")
    files = {"a/1.png": grey.getvalue(), "b/1.png": picture((7, 0, 0)), "b/2.png": b"no image"}
    images = open_data(make_folder(tmp_path / "set", files), named("a", "b"), 2)
    assert images.notes == ()
    assert [images.image(i).getpixel((0, 0)) for i in range(2)] == [(40, 40, 40), (7, 0, 0)]


@both
def test_files_that_are_left_out_are_counted(make: Make, tmp_path: Path) -> None:
    files = {**many({"a": 1, "b": 1}), "a/x.HEIC": b"", "b/y.heic": b"", "b/list": b"", "about.txt": b""}
    images = open_data(make(tmp_path / "set", files), named("a", "b"), 2)
    assert images.notes == ("left out of set, as no images that can be read: 2 .heic, 1 without extension",)


@pytest.mark.parametrize(
    ("extension", "format"), [("jfif", "JPEG"), ("jpe", "JPEG"), ("avif", "AVIF"), ("jp2", "JPEG2000")]
)
def test_less_common_formats_are_read(extension: str, format: str, tmp_path: Path) -> None:
    if format not in FORMATS:
        pytest.skip(f"this build of Pillow does not read {format}")
    for label, colour in (("a", (200, 30, 30)), ("b", (30, 30, 200))):
        (tmp_path / "set" / label).mkdir(parents=True)
        Image.new("RGB", (16, 16), colour).save(tmp_path / "set" / label / f"1.{extension}", format)
    images = open_data(tmp_path / "set", named("a", "b"), 2)
    assert [np.asarray(images.image(i))[8, 8].argmax() for i in range(2)] == [0, 2] and images.notes == ()


def test_listing_a_whole_disk_ends_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that holds hardly any images is not walked to its end; one of images is, however long."""
    monkeypatch.setattr(listing, "LISTING_SECONDS", -1.0)
    clutter = {f"etc/{n}.conf": b"" for n in range(30)}
    root = make_folder(tmp_path / "disk", {**clutter, **{f"x/{n}/{n}.txt": b"" for n in range(30)}})
    with pytest.raises(ValueError, match=r"files or more, most of them no images: choose the folder that"):
        open_data(root, PLAIN, 2)
    assert len(open_data(make_folder(tmp_path / "set", many({"cat": 20, "dog": 20})), PLAIN, 2)) == 40
    monkeypatch.setattr(listing, "MOST_ENTRIES", 39)
    with pytest.raises(ValueError, match=r"set holds more than 39 files: choose the folder"):
        open_data(tmp_path / "set", PLAIN, 2)


@both
@pytest.mark.parametrize("labels", [(), ("LABEL_0", "LABEL_1")])
def test_an_order_of_classes_is_not_guessed(make: Make, labels: tuple[str, ...], tmp_path: Path) -> None:
    """Which folder is which logit must be told; the usual order is offered."""
    path, unnamed = make(tmp_path / "set", many({"dog": 1, "cat": 1})), named(*labels)
    with pytest.raises(
        UnnamedClassesError, match=r"class folders of set.* are: name them .* sorted\): cat, dog$"
    ):
        opening.open_data(path, unnamed, 2)
    assert class_folders(str(path)) == ("cat", "dog")
    assert opening.open_data(path, named("dog", "cat"), 2).classes == ("dog", "cat")
    assert opening.open_data(path, unnamed, 0).classes == ("cat", "dog")
    assert opening.open_data(make(tmp_path / "numbers", many({"0": 1, "1": 1})), PLAIN, 2).notes == ()


@both
def test_class_folders_of_all_layouts(make: Make, tmp_path: Path) -> None:
    assert class_folders(str(make(tmp_path / "parts", DIVIDED))) == ("cat", "zebra")
    assert class_folders(
        str(make(tmp_path / "deep", {f"data/all/{n}": d for n, d in many({"b": 1, "a": 1}).items()}))
    ) == ("a", "b")
    assert class_folders("demo") == tuple(sorted(scenes.CLASSES))
    side = "train" if make is make_folder else "cifar10-jpeg-train.zip"
    (tmp_path / "c").mkdir()
    make(tmp_path / "c" / side, many({"y": 2, "x": 2}))
    assert class_folders(f"cifar10:{tmp_path / 'c'}") == ("x", "y")
