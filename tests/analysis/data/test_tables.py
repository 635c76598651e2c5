"""Images whose classes stand in a table: the same labels, names and content as in class folders."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from analysis.data.image_set import ImageSet
from analysis.data.labels import UnnamedClassesError
from analysis.data.open import class_folders, open_data, open_training
from analysis.models.preprocess import Preprocess
from tests.analysis.data.test_open import Make, both, labels, make_folder, make_zip, names, picture

PETS = Preprocess((8, 8), labels=("zebra", "cat", "great dane"))
PLAIN = Preprocess((8, 8))
CATS = [(f"{n}.png", ("cat", "zebra", "Great_Dane")[n % 3]) for n in range(9)]


def flat(place: str = "", rows: list[tuple[str, str]] = CATS) -> dict[str, bytes]:
    return {f"{place}{name}": picture((n, 0, 0)) for n, (name, _) in enumerate(rows)}


def csv(rows: list[tuple[str, str]] = CATS, header: str = "file,label", start: str = "") -> bytes:
    return "\n".join([*[header] * bool(header), *(f"{start}{file},{label}" for file, label in rows)]).encode()


def colours(images: ImageSet) -> list[int]:
    """How red each image is."""
    return [int(np.asarray(images.image(i))[0, 0, 0]) for i in range(len(images))]


@both
@pytest.mark.parametrize(
    ("place", "table", "start", "header"),
    [
        ("", "labels.csv", "", "file,label"),
        ("", "labels.csv", "./", "Filename,Class"),
        ("images/", "labels.csv", "images/", "image,target"),
        ("images/", "labels.csv", "", "path,category"),
        ("images/", "images.csv", "", "file,label"),
        ("data/set/", "data/labels.csv", "set\\", "file,label"),
        ("", "labels.csv", "", ""),
        ("train/", "train/metadata.csv", "", "file_name,label"),
    ],
)
def test_a_table_stands_for_class_folders(
    make: Make, place: str, table: str, start: str, header: str, tmp_path: Path
) -> None:
    """The twin is the same set in class folders: names, labels, content and every split agree."""
    path = make(tmp_path / "tabled", flat(place) | {table: csv(header=header, start=start)})
    twin = make_folder(
        tmp_path / "twin", {f"{label}/{name}": picture((n, 0, 0)) for n, (name, label) in enumerate(CATS)}
    )
    for split in ("all", "calibration", "train", "heldout"):
        found, expected = (open_data(one, PETS, 3, split) for one in (path, twin))
        assert labels(found) == labels(expected) and colours(found) == colours(expected)
        assert found.fingerprint() == expected.fingerprint()
    assert f"are those in {table}" in found.notes[0]
    assert class_folders(str(path)) == class_folders(str(twin))


def test_the_table_itself_may_be_named_of_several(tmp_path: Path) -> None:
    other = [(file, "zebra") for file, _ in CATS]
    make_folder(tmp_path, flat() | {"a.csv": csv(), "b.csv": csv(other), "c.csv": b"width,height\n8,8\n"})
    assert set(labels(open_data(tmp_path / "a.csv", PETS, 3)).values()) == {0, 1, 2}
    assert set(labels(open_data(tmp_path / "b.csv", PETS, 3)).values()) == {0}
    with pytest.raises(ValueError, match=r"b\.csv gives 0\.png the label 'zebra', and it has another"):
        open_data(tmp_path, PETS, 3)
    with pytest.raises(
        ValueError, match=r"c\.csv must have a column file and a column label .* got width, h"
    ):
        open_data(tmp_path / "c.csv", PETS, 3)


def test_an_imagenet_val_folder_with_the_solutions_of_kaggle(tmp_path: Path) -> None:
    ids = ("n01440764", "n03888257")
    rows = [(f"ILSVRC2012_val_{n:08d}", ids[n % 2]) for n in range(4)]
    table = "\n".join(["ImageId,PredictionString", *(f"{file},{id} 85 1 499 272" for file, id in rows)])
    files = {f"{file}.JPEG": picture((n, 0, 0)) for n, (file, _) in enumerate(rows)}
    images = open_data(make_folder(tmp_path, files | {"LOC_val_solution.csv": table.encode()}), PLAIN, 1000)
    assert [images.label(i) for i in range(4)] == [0, 0, 701, 701]
    assert colours(images) == [0, 2, 1, 3]


@both
def test_hugging_face_metadata_in_parts(make: Make, tmp_path: Path) -> None:
    """Each part with its own metadata, as `load_dataset("imagefolder")` reads it; or one for all."""
    lines = "\n".join(json.dumps({"file_name": f"v{name}", "label": label}) for name, label in CATS)
    val = {f"val/v{name}": picture((100 + n, 0, 0)) for n, (name, _) in enumerate(CATS)}
    parts = flat("train/") | val
    first = parts | {
        "train/metadata.csv": csv(header="file_name,label"),
        "val/metadata.jsonl": lines.encode(),
    }
    both_rows = [(f"train/{file}", label) for file, label in CATS]
    both_rows += [(f"val/v{file}", label) for file, label in CATS]
    second = parts | {"metadata.csv": csv(both_rows, "file_name,label")}
    for index, files in enumerate((first, second)):
        path = make(tmp_path / str(index), files)
        train, test = open_training(str(path), PETS, 3)
        assert train.name.endswith("/train") and test.name.endswith("/val")
        assert max(colours(train)) < 100 <= min(colours(test)) and len(train) == len(test) == 9


def test_parts_with_a_table_each_beside_them(tmp_path: Path) -> None:
    files = flat("train/") | flat("val/", CATS[:3])
    make_folder(tmp_path, files | {"train.csv": csv(), "val.csv": csv(CATS[:3])})
    assert len(open_data(tmp_path, PETS, 3)) == 3 and len(open_data(tmp_path, PETS, 3, "learn")) == 9


def test_numbers_are_outputs_and_names_must_be_known(tmp_path: Path) -> None:
    make_folder(
        tmp_path / "a", flat() | {"labels.csv": csv([(file, str(n % 3)) for n, (file, _) in enumerate(CATS)])}
    )
    assert [label for _, label in sorted(labels(open_data(tmp_path / "a", PLAIN, 3)).items())] == [0] * 3 + [
        1
    ] * 3 + [2] * 3
    make_folder(tmp_path / "b", flat() | {"labels.csv": csv()})
    with pytest.raises(UnnamedClassesError, match=r"labels\.csv|Great_Dane, cat, zebra"):
        open_data(tmp_path / "b", PLAIN, 3)
    slash = [(file, "great/dane") for file, _ in CATS]
    make_folder(tmp_path / "c", flat() | {"labels.csv": csv(slash)})
    assert set(labels(open_data(tmp_path / "c", PETS, 3)).values()) == {2}


def test_class_folders_go_before_tables_that_are_no_metadata(tmp_path: Path) -> None:
    files = {"cat/1.png": picture((1, 0, 0)), "zebra/2.png": picture((2, 0, 0))}
    make_folder(
        tmp_path, files | {"labels.csv": csv([("cat/1.png", "zebra")]), "metadata.csv": b"file_name,text\n"}
    )
    assert labels(open_data(tmp_path, PETS, 3)) == {"cat/1.png": 1, "zebra/2.png": 0}
    (tmp_path / "metadata.csv").write_bytes(csv([("cat/1.png", "great dane")], "file_name,label"))
    found = open_data(tmp_path, PETS, 3)
    assert labels(found) == {"great dane/1.png": 2} or set(labels(found).values()) == {2}


def test_what_is_left_out_is_told(tmp_path: Path) -> None:
    rows = [*CATS, ("gone.png", "cat"), ("lost.png", "cat")]
    make_folder(tmp_path, flat() | {"extra.png": b"", "labels.csv": csv(rows)})
    notes = open_data(tmp_path, PETS, 3).notes
    assert any("1 images that the table does not name" in note for note in notes)
    assert any("2 files that the table names and that are not there, such as gone.png" in n for n in notes)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (b"file,label\n../0.png,cat\n", r"labels\.csv names '\.\./0\.png', which leads out of its folder"),
        (b"file,label\nC:\\0.png,cat\n", r"which leads out of its folder"),
        (b"file,label\n/etc/0.png,cat\n", r"which leads out of its folder"),
        (b"file,label\n0.png\n", r"labels\.csv has 1 columns on line 2, too few"),
        (b"file,label\n0.png, \n", r"labels\.csv gives '0\.png' no label"),
        (b"file,label\n0.png,cat\n0.png,zebra\n", r"gives 0\.png the label 'zebra', and it has another one"),
        (b"file,label\nx.png,cat\n", r"labels\.csv names no image that is there, such as 'x\.png'"),
        (b'file,label\n"0.png,cat', r"labels\.csv is damaged \("),
        (b"file,label\n\xff.png,cat\n", r"labels\.csv is not UTF-8 text"),
        (b"file,label\n" + b"x" * 200_000 + b",cat\n", r"labels\.csv is damaged \(field larger"),
        (b"a,b\n1,2\n", r"9 images but no class folders; a table beside them"),
        (b"", r"9 images but no class folders"),
    ],
)
def test_tables_that_cannot_be_read(table: bytes, message: str, tmp_path: Path) -> None:
    for make in (make_folder, make_zip):
        with pytest.raises(ValueError, match=message) as caught:
            open_data(make(tmp_path / make.__name__, flat() | {"labels.csv": table}), PETS, 3)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"metadata\.jsonl is not JSON"),
        ("[1]", r"metadata\.jsonl must have an object with a `file_name`"),
    ],
)
def test_metadata_that_cannot_be_read(text: str, message: str, tmp_path: Path) -> None:
    make_folder(tmp_path, flat() | {"metadata.jsonl": text.encode()})
    with pytest.raises(ValueError, match=message):
        open_data(tmp_path, PETS, 3)


def test_names_have_the_class_first(tmp_path: Path) -> None:
    make_folder(tmp_path, flat("a/b/") | {"labels.csv": csv(start="a/b/")})
    assert names(open_data(tmp_path, PETS, 3))[0] == "Great_Dane/2.png"
