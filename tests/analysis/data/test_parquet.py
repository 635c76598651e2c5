"""Images in parquet files, as Hugging Face datasets writes them."""

from __future__ import annotations

import json
import pickle
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from analysis.data import parquet
from analysis.data.batches import batches
from analysis.data.images import BadImageError
from analysis.data.open import class_folders, open_data, open_training
from analysis.models.preprocess import Preprocess
from tests.analysis.data.test_open import labels, picture
from tests.analysis.data.test_tables import colours

pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
pq = pytest.importorskip("pyarrow.parquet")

PETS = Preprocess((8, 8), labels=("zebra", "cat", "great dane"))
PLAIN = Preprocess((8, 8))
NAMES = ["great dane", "zebra", "cat"]


def write(
    file: Path,
    count: int = 9,
    *,
    first: int = 0,
    names: list[str] | None = NAMES,
    image: str = "image",
    label: str = "label",
    group: int = 4,
    classes: list[int | None] | None = None,
) -> Path:
    """Image n is of colour (first + n, 0, 0), and of class n % 3."""
    rows = [{"bytes": picture((first + n, 0, 0)), "path": f"{n}.png"} for n in range(count)]
    table = pa.table({image: rows, label: classes or [n % 3 for n in range(count)]})
    if names is not None:
        features = {image: {"_type": "Image"}, label: {"names": names, "_type": "ClassLabel"}}
        said = {"huggingface": json.dumps({"info": {"features": features}})}
        table = table.replace_schema_metadata(said)
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, file, row_group_size=group)
    return file


def test_the_label_of_every_image(tmp_path: Path) -> None:
    """Two shards in a folder, several row groups each; the classes' names stand in the file."""
    for shard in range(2):
        write(tmp_path / "data" / f"train-0000{shard}-of-00002.parquet", first=100 * shard)
    images = open_data(tmp_path, PETS, 3)
    assert len(images) == 18 and images.classes == PETS.labels
    for i in range(18):
        name = NAMES[colours(images)[i] % 100 % 3]
        assert images.classes[images.label(i)] == name and images.item_name(i).startswith(f"{name}/")
    assert class_folders(str(tmp_path)) == tuple(NAMES)  # by their numbers, not sorted
    assert not images.notes


def test_the_numbers_are_the_outputs_of_a_model_without_names(tmp_path: Path) -> None:
    file = write(tmp_path / "a.parquet", image="img")
    for preprocess in (PLAIN, Preprocess((8, 8), labels=("LABEL_0", "LABEL_1", "LABEL_2"))):
        images = open_data(file, preprocess, 3)
        assert images.classes == tuple(NAMES)
        assert [images.label(i) for i in range(9)] == [red % 3 for red in colours(images)]
    unnamed = open_data(write(tmp_path / "b.parquet", names=None, label="fine_label"), PLAIN, 3)
    assert [unnamed.label(i) for i in range(9)] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    with pytest.raises(ValueError, match="none of them a class of the model"):
        open_data(file, Preprocess((8, 8), labels=("a", "b", "c")), 3)


def test_a_name_that_stands_twice_is_told_apart_by_its_number(tmp_path: Path) -> None:
    """As ImageNet's two classes called crane."""
    twice = ("crane", "zebra", "crane")
    images = open_data(write(tmp_path / "a.parquet", names=list(twice)), Preprocess((8, 8), labels=twice), 3)
    assert [images.label(i) for i in range(9)] == [red % 3 for red in colours(images)]


@pytest.mark.parametrize("form", ["{}-00000-of-00001.parquet", "{}/0000.parquet", "plain_text/{}.parquet"])
def test_parts(form: str, tmp_path: Path) -> None:
    write(tmp_path / form.format("train"), 9)
    write(tmp_path / form.format("validation"), 6, first=100)
    write(tmp_path / form.format("test"), 3, first=200, label="label")
    train, heldout = open_training(str(tmp_path), PETS, 3)
    assert (len(train), len(heldout)) == (9, 6)
    assert (train.name, heldout.name) == (f"{tmp_path.name}/train", f"{tmp_path.name}/validation")
    assert min(colours(heldout)) == 100


def test_images_without_a_label_are_left_out_and_told(tmp_path: Path) -> None:
    file = write(tmp_path / "a.parquet", 4, classes=[0, -1, None, 2], names=None)
    images = open_data(file, PLAIN, 3)
    assert labels(images) == {"0/a-000000.png": 0, "2/a-000003.png": 2}
    assert images.notes == ("left out of a.parquet: 2 images without a label",)
    with pytest.raises(ValueError, match="has no images with labels"):
        open_data(write(tmp_path / "b.parquet", 2, classes=[-1, -1], names=None), PLAIN, 3)


def test_it_is_read_lazily_and_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening reads few images (their depth of grey); groups are read once, by threads and processes."""
    groups: list[int] = []
    original = parquet._group

    def noted(file: Any, group: int, *rest: str) -> Any:
        groups.append(group)
        return original(file, group, *rest)

    monkeypatch.setattr(parquet, "_group", noted)
    images = open_data(write(tmp_path / "a.parquet", 40, group=10), PETS, 3)
    assert len(groups) <= 2
    groups.clear()
    expected = [images.image(i).tobytes() for i in range(40)]
    assert sorted(groups) == [0, 1, 2, 3]
    monkeypatch.setattr(parquet, "KEPT", 0)
    groups.clear()
    copied = pickle.loads(pickle.dumps(images))
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda i: copied.image(i).tobytes(), range(40))) == expected
    assert len(groups) > 4
    monkeypatch.undo()
    read = [labels for _, labels in batches(images, PETS, 8, workers=1)]
    assert sum(map(len, read)) == 40


def test_plain_bytes_and_text_labels(tmp_path: Path) -> None:
    table = pa.table({"image": [picture((n, 0, 0)) for n in range(3)], "class": ["cat", "zebra", "cat"]})
    pq.write_table(table, tmp_path / "a.parquet")
    assert labels(open_data(tmp_path, PETS, 3)) == {
        "cat/a-000000": 1,
        "cat/a-000002": 1,
        "zebra/a-000001": 0,
    }


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"image": [1], "label": [0]}, r"a\.parquet has no column of images; its columns are image, label"),
        ({"image": [b"x"], "text": ["a"]}, r"has no column `label`; its columns are image, text"),
        ({"image": [b"x"], "label": [1.5]}, r"a\.parquet: `label` must hold whole numbers or text, got 1\.5"),
        ({"image": [b"x"], "label": [" "]}, r"`label` must hold whole numbers or text, got ' '"),
    ],
)
def test_other_columns(columns: dict[str, Any], message: str, tmp_path: Path) -> None:
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=message):
        open_data(tmp_path, PETS, 3)


def test_a_label_beyond_the_names(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a\.parquet has the label 2, and names for 2 only"):
        open_data(write(tmp_path / "a.parquet", names=["cat", "zebra"]), PETS, 3)


def test_damaged_files_are_one_sentence(tmp_path: Path) -> None:
    file = write(tmp_path / "a.parquet", 40)
    whole = file.read_bytes()
    for damaged in (b"", b"PAR1", whole[:200], whole[:-20], whole[:-300] + bytes(292) + whole[-8:]):
        file.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"a\.parquet .*(is damaged|cannot be read)") as caught:
            open_data(tmp_path, PETS, 3)
        assert "\n" not in str(caught.value)
    file.write_bytes(whole)
    images = open_data(tmp_path, PETS, 3)
    file.write_bytes(whole[:20] + bytes(len(whole) // 2) + whole[20 + len(whole) // 2 :])
    with pytest.raises(BadImageError, match=r"a\.parquet"):
        for i in range(40):
            images.image(i)
    file.unlink()
    with pytest.raises(BadImageError, match=r"a\.parquet cannot be read \(No such file"):
        open_data_again(images)


def open_data_again(images: Any) -> None:
    pickle.loads(pickle.dumps(images)).image(0)


def test_images_that_lie_elsewhere_or_are_damaged(tmp_path: Path) -> None:
    rows = [{"bytes": None, "path": "/home/me/1.png"}, {"bytes": b"no image", "path": "2.png"}]
    pq.write_table(pa.table({"image": rows, "label": [0, 1]}), tmp_path / "a.parquet")
    images = open_data(tmp_path, PLAIN, 3)
    with pytest.raises(BadImageError, match=r"a\.parquet#0 holds no image, at most the name of a file elsew"):
        images.image(0)
    with pytest.raises(BadImageError, match=r"a\.parquet#1 is not an image"):
        images.image(1)


def test_groups_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = open_data(write(tmp_path / "a.parquet"), PETS, 3)
    monkeypatch.setattr(parquet, "MOST_GROUP", 100)
    with pytest.raises(BadImageError, match="row groups of more than"):
        images.image(0)


def test_without_pyarrow_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path / "a.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ValueError, match=r"a\.parquet is a parquet file, .* pip install pyarrow$"):
        open_data(file, PETS, 3)
