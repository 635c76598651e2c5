"""What a user says of a model on the command line: image size, classes, preprocessing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from analysis.models.load import load
from analysis.models.preprocess import Preprocess
from analysis.models.reading import Reading
from analysis.vit import ViT
from pruning.bundle.write import write_bundle
from pruning.cli.main import main
from tests.support.models import TINY
from tests.support.training import write_images

CLASSES = tuple(f"kind {letter}" for letter in "jihgfedcba")  # not in the order of their names


@pytest.fixture
def nameless(tiny: ViT, tmp_path: Path) -> str:
    place = tmp_path / "nameless"
    write_bundle(place, tiny, Preprocess(TINY.image_size), name="tiny", report={"model": "tiny"})
    return str(place)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Class folders named after `CLASSES`."""
    folder = write_images(tmp_path / "photos")
    for number, name in enumerate(CLASSES):
        (folder / str(number)).rename(folder / name)
    return folder


def run(capsys: pytest.CaptureFixture[str], *words: str) -> dict:
    assert main([*words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    try:
        code: object = main(words)
    except SystemExit as stop:
        code = stop.code
    said = capsys.readouterr().err
    assert code == 2 and said.count("\n") == 1
    return said


def right(tiny: ViT, photos: Path, order: tuple[str, ...]) -> float:
    """Top-1 by a loop over the files, where the model's outputs are these classes."""
    hits = []
    for file in sorted(photos.glob("*/*.png")):
        with torch.no_grad():
            logits = tiny(Preprocess(TINY.image_size)(Image.open(file).convert("RGB"))[None])
        hits.append(order[int(logits.argmax())] == file.parent.name)
    return sum(hits) / len(hits)


def test_classes_are_told_by_a_file_or_taken_in_sorted_order(
    capsys: pytest.CaptureFixture[str], tiny: ViT, nameless: str, photos: Path, tmp_path: Path
) -> None:
    names = tmp_path / "names.txt"
    names.write_text("\n".join(CLASSES) + "\n")
    evaluate = ["evaluate", "--model", nameless, "--data", str(photos)]
    assert "does not name its classes" in refused(capsys, *evaluate)
    for order, word in ((CLASSES, str(names)), (tuple(sorted(CLASSES)), "sorted")):
        got = run(capsys, *evaluate, "--classes-file", word)["top1"]
        assert got == pytest.approx(right(tiny, photos, order))


def test_names_stay_with_what_is_made(
    capsys: pytest.CaptureFixture[str], nameless: str, photos: Path, tmp_path: Path
) -> None:
    words = ["--model", nameless, "--data", str(photos), "--classes-file", "sorted", "--mlp", "0.5"]
    run(capsys, "prune", *words, "--method", "l1", "--out", str(tmp_path / "small"))
    small = load(str(tmp_path / "small"))
    assert small.preprocess.labels == tuple(sorted(CLASSES))
    assert run(capsys, "evaluate", "--model", str(tmp_path / "small"), "--data", str(photos))["images"] == 40
    more = ["recover", "--model", str(tmp_path / "small"), "--teacher", nameless, "--data", str(photos)]
    more += ["--epochs", "1", "--recover-option", "workers=0", "--recover-option", "batch=10"]
    got = run(capsys, *more, "--classes-file", "sorted", "--out", str(tmp_path / "again"))
    assert got["images"] == 20


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("a\nb\n", "2 class names were given, but the model has 10 classes"),
        ("", "names no classes"),
        ("a\n\nb", "has no name on line 2"),
        (None, "cannot be read"),
    ],
)
def test_files_of_classes_that_do_not_fit(
    content: str | None,
    said: str,
    capsys: pytest.CaptureFixture[str],
    nameless: str,
    photos: Path,
    tmp_path: Path,
) -> None:
    file = tmp_path / "names.txt"
    if content is not None:
        file.write_text(content)
    words = ["evaluate", "--model", nameless, "--data", str(photos), "--classes-file", str(file)]
    assert said in refused(capsys, *words)


def test_image_size_and_number_of_classes(capsys: pytest.CaptureFixture[str], nameless: str) -> None:
    estimate = ["estimate", "--model", "vit_tiny_patch16_224", "--mlp", "0.5"]
    whole, small, few = (
        run(capsys, *estimate, *words) for words in ((), ("--image-size", "96,64"), ("--num-classes", "10"))
    )
    assert small["gmacs_before"] < 0.15 * whole["gmacs_before"]
    assert whole["params_before"] - few["params_before"] == 193 * 990
    for words, said in (
        (["--image-size", "1,2,3"], "must be rows and columns"),
        (["--image-size", "x"], "must be a whole number"),
        (["--image-size", "100"], "multiples of the patch size"),
        (["--classes-file", "sorted"], "needs --data"),
    ):
        assert said in refused(capsys, "estimate", "--model", "vit_tiny_patch16_224", *words)
    for words in (["--image-size", "64"], ["--num-classes", "3"]):
        assert "has its own" in refused(capsys, "estimate", "--model", nameless, *words)


def test_preprocessing_is_changed_and_kept(
    capsys: pytest.CaptureFixture[str], nameless: str, tmp_path: Path
) -> None:
    words = ["--mean", "0.1,0.2,0.3", "--std", "1,2,3", "--crop-pct", "0.9"]
    run(capsys, "export", "--model", nameless, *words, "--out", str(tmp_path / "out"))
    got = load(str(tmp_path / "out")).preprocess
    assert (got.mean, got.std, got.crop_pct) == ((0.1, 0.2, 0.3), (1.0, 2.0, 3.0), 0.9)
    assert Reading(None, None, (), got.mean, got.std, 0.9).words() == words
    for bad, said in ((["--mean", "0.5"], "must have 3 values"), (["--crop-pct", "0"], "from 0.1 to 1")):
        assert said in refused(capsys, "export", "--model", nameless, *bad, "--out", str(tmp_path / "no"))


def test_estimate_reads_the_weights(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    import timm

    model = timm.create_model("vit_tiny_patch16_224", img_size=64, num_classes=7)
    torch.save(model.state_dict(), tmp_path / "few.pth")
    estimate = ["estimate", "--model", "vit_tiny_patch16_224", "--mlp", "0.5", "--weights"]
    got = run(capsys, *estimate, str(tmp_path / "few.pth"))
    assert got["params_before"] == sum(parameter.numel() for parameter in model.parameters())
    assert "there is no" in refused(capsys, *estimate, str(tmp_path / "no.pth"))


def test_names_of_the_model_that_are_replaced_are_told(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["evaluate", "--model", "demo", "--data", "demo", "--limit", "2", "--classes-file", "sorted"]
    assert main([*words, "--json"]) == 0
    assert "note: the model's own class names are replaced" in capsys.readouterr().err


@pytest.mark.parametrize("form", ["table", "parquet"])
def test_tables_and_parquet_give_the_accuracy_of_class_folders(
    capsys: pytest.CaptureFixture[str], nameless: str, photos: Path, tmp_path: Path, form: str
) -> None:
    """The sorted classes of a table; a parquet file numbers its classes, so that nothing need be said."""
    expected = run(capsys, "evaluate", "--model", nameless, "--data", str(photos), "--classes-file", "sorted")
    files = sorted(photos.rglob("*.png"))
    if form == "table":
        (tmp_path / "flat").mkdir()
        for number, file in enumerate(files):
            (tmp_path / "flat" / f"{number}.png").write_bytes(file.read_bytes())
        rows = [f"{number}.png,{file.parent.name}" for number, file in enumerate(files)]
        (tmp_path / "flat" / "labels.csv").write_text("\n".join(["file,label", *rows]))
        words = ["--data", str(tmp_path / "flat"), "--classes-file", "sorted"]
    else:
        pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        classes = sorted(CLASSES)
        images = [{"bytes": file.read_bytes(), "path": file.name} for file in files]
        labels = [classes.index(file.parent.name) for file in files]
        names = {"label": {"_type": "ClassLabel", "names": classes}}
        said = {"huggingface": json.dumps({"info": {"features": names}})}
        table = pa.table({"image": images, "label": labels}).replace_schema_metadata(said)
        pq.write_table(table, tmp_path / "set.parquet")
        words = ["--data", str(tmp_path / "set.parquet")]
    found = run(capsys, "evaluate", "--model", nameless, *words)
    for name in ("top1", "top5", "images"):
        assert found[name] == expected[name]
    assert found["images"] == len(files)
