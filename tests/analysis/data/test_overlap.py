from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from analysis.data import overlap
from analysis.data.open import open_data, open_training
from analysis.data.overlap import require_apart
from analysis.data.scenes import CLASSES
from analysis.models.preprocess import Preprocess
from tests.support.models import TINY
from tests.support.training import PREPROCESS, write_images

DEMO = Preprocess((64, 64), labels=CLASSES)


def opened(folder: Path):
    return open_data(folder, PREPROCESS, TINY.num_classes)


def test_other_images_of_the_same_names_are_apart(tmp_path: Path) -> None:
    first, second = write_images(tmp_path / "a"), write_images(tmp_path / "b", seed=1)
    require_apart(opened(first), opened(second))


@pytest.mark.parametrize("disguise", ["itself", "a link", "a copy", "a zip", "other names", "a part"])
def test_the_same_images_are_found_under_any_name(disguise: str, tmp_path: Path) -> None:
    place, other = write_images(tmp_path / "a"), tmp_path / "b"
    if disguise == "itself":
        other = tmp_path / "a" / ".." / "a"
    elif disguise == "a link":
        other.symlink_to(place)
    elif disguise == "a zip":
        other = Path(shutil.make_archive(str(other), "zip", place))
    else:
        shutil.copytree(place, other)
    if disguise == "other names":
        for file in sorted(other.glob("*/*.png")):
            file.rename(file.with_name(f"photo of {file.name}"))
    if disguise == "a part":  # one of four of each class, among as many others
        for file in other.glob("*/[123].png"):
            file.unlink()
        for file in write_images(tmp_path / "more", each=1, seed=1).glob("*/*.png"):
            file.rename(other / file.parent.name / "more.png")
    with pytest.raises(ValueError, match=r"^\d+ of \d+ test images .* share no images, or only one set"):
        require_apart(opened(place), opened(other))
    with pytest.raises(ValueError, match="share no images"):
        open_training(str(place), PREPROCESS, TINY.num_classes, str(other))


def test_a_single_photo_in_both_is_let_pass(tmp_path: Path) -> None:
    """Of 120 test images one is in the other set: collections hold a few photos twice."""
    first, second = write_images(tmp_path / "a", each=12), write_images(tmp_path / "b", seed=1)
    shutil.copy(first / "3" / "0.png", second / "3" / "twice.png")
    require_apart(opened(second), opened(first))


def test_large_sets_are_searched_by_name_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = write_images(tmp_path / "a")
    monkeypatch.setattr(overlap, "SEARCHED", 4)
    learned, few = opened(place), opened(place).subset([0, 9])
    with pytest.raises(ValueError, match=r"^[12] of 2 test images"):
        require_apart(learned, few)


def test_demo_scenes_of_two_splits_are_apart() -> None:
    train, test = open_training("demo", DEMO, 10)
    require_apart(train.subset(range(500)), test)
    with pytest.raises(ValueError, match="share no images"):
        require_apart(test, test)
