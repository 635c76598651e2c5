from __future__ import annotations

import numpy as np
import pytest

from analysis.data.scenes import CLASSES, SIZE, render

# (mean value, pixels of the object, colour at row 5, column 9)
GOLDEN_0 = (92.356, 1534, [41, 47, 30])
GOLDEN_7 = (63.138, 614, [56, 35, 29])
GOLDEN_511 = (72.687, 656, [44, 64, 64])


def test_the_same_index_gives_the_same_scene_for_ever() -> None:
    """Means measured when the data set was made; the demo model was trained on these very images."""
    known = {("test", 0): GOLDEN_0, ("train", 7): GOLDEN_7, ("calibration", 511): GOLDEN_511}
    for (split, index), (mean, area, corner) in known.items():
        scene = render(split, index)
        assert float(scene.image.mean()) == pytest.approx(mean, abs=0.02)
        assert int(scene.mask.sum()) == pytest.approx(area, abs=2)
        assert scene.image[5, 9].tolist() == pytest.approx(corner, abs=1)
        assert np.array_equal(scene.image, render(split, index).image)


def test_splits_differ_and_classes_take_turns() -> None:
    images = {split: render(split, 3).image for split in ("train", "calibration", "test")}
    assert not np.array_equal(images["train"], images["test"])
    assert not np.array_equal(images["train"], images["calibration"])
    assert [render("test", i).label for i in range(12)] == [*range(len(CLASSES)), 0, 1]


@pytest.mark.parametrize("index", range(40))
def test_the_object_is_inside_and_brighter_than_its_surroundings(index: int) -> None:
    scene = render("test", index)
    assert scene.image.shape == (SIZE, SIZE, 3) and scene.image.dtype == np.uint8
    border = np.concatenate([scene.mask[0], scene.mask[-1], scene.mask[:, 0], scene.mask[:, -1]])
    assert not border.any()
    brightness = scene.image.max(axis=-1)
    assert brightness[scene.mask].mean() > brightness[~scene.mask].mean() + 60
    assert 0.015 < scene.mask.mean() < 0.5


@pytest.mark.parametrize(
    ("split", "index", "message"), [("val", 0, "split must be one of"), ("test", -1, "0 or more")]
)
def test_unknown_scenes_are_refused(split: str, index: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        render(split, index)
