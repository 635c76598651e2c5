"""Where a command may write is known before its work, and nothing that is not its own is replaced."""

from __future__ import annotations

import errno
import json
import shutil
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from analysis.models import REQUIRED_FILES
from analysis.models.preprocess import Preprocess
from pruning.bundle import output
from pruning.bundle.staging import staged_files, staged_folder
from pruning.bundle.write import write_bundle
from pruning.cli.main import main
from pruning.criteria.head_measures import HeadReading
from pruning.export import export_onnx, export_pt2, require_exportable
from pruning.files import OutputError, save_json
from pruning.report.html import GENERATOR
from tests.support.models import TINY, random_vit

ANYTHING = "what is here is mine"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_bundle(
        tmp_path / "tiny", random_vit(TINY), Preprocess(TINY.image_size), name="tiny", report={}
    )


@pytest.fixture(autouse=True)
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each command would do its work here, which would come too late for a check of its output."""

    def work(*_: object, **__: object) -> None:
        raise AssertionError("the work began")

    for place in (
        "report.make_report",
        "report.compare_runs",
        "heads.run_heads",
        "prune.prune",
        "recover.run_recover",
        "export.load",
    ):
        monkeypatch.setattr(f"pruning.cli.{place}", work)


# Words of each command, and of all that writes a file or a folder.
FILES = {
    "report": ["report", "{bundle}", "--out"],
    "heads": ["heads", "--model", "demo", "--data", "demo", "--out"],
}
FOLDERS = {
    "prune": ["prune", "--model", "demo", "--data", "demo", "--qk", "0.5", "--out"],
    "recover": ["recover", "--model", "{bundle}", "--teacher", "demo", "--data", "demo", "--out"],
    "export": ["export", "--model", "{bundle}", "--out"],
}


def refused(capsys: pytest.CaptureFixture[str], words: list[str], out: Path | str, bundle: Path) -> str:
    code = main([word.replace("{bundle}", str(bundle)) for word in words] + [str(out)])
    said = capsys.readouterr()
    assert code in (1, 2) and said.out == "" and said.err.count("\n") == 1
    return said.err


def content(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("command", FILES)
def test_no_file_is_replaced_but_an_earlier_output(capsys, bundle: Path, tmp_path: Path, command) -> None:
    (tmp_path / "notes.txt").write_text(ANYTHING)
    (tmp_path / "a.json").write_text(json.dumps({"version": 1}))
    (tmp_path / "link").symlink_to("notes.txt")
    before = content(tmp_path)
    for place in ("notes.txt", "a.json", "link", *(f"tiny/{file.name}" for file in bundle.iterdir())):
        assert "exists and is no" in refused(capsys, FILES[command], tmp_path / place, bundle)
    assert "inside the bundle" in refused(capsys, FILES[command], bundle / "new.html", bundle)
    assert "exists and is no" in refused(capsys, FILES[command], "/dev/null", bundle)
    assert "is a folder" in refused(capsys, FILES[command], tmp_path, bundle)
    assert "choose an existing folder" in refused(capsys, FILES[command], tmp_path / "no" / "file", bundle)
    assert content(tmp_path) == before


@pytest.mark.parametrize("command", FILES)
def test_an_earlier_output_is_replaced(bundle: Path, tmp_path: Path, command) -> None:
    words = [word.replace("{bundle}", str(bundle)) for word in FILES[command]]
    report, reading, empty = (tmp_path / name for name in ("report", "heads", "empty"))
    report.write_text(f'<!doctype html><meta name="generator" content="{GENERATOR}">')
    save_json(HeadReading((2,), 1, {"entropy": (0.0, 1.0)}, {}, "demo"), reading)
    empty.touch()
    own, other = (report, reading) if command == "report" else (reading, report)
    for place in (own, empty, tmp_path / "new"):
        with pytest.raises(AssertionError, match="the work began"):
            main([*words, str(place)])
    assert main([*words, str(other)]) == 2


@pytest.mark.parametrize("command", FOLDERS)
def test_a_folder_that_must_not_be_replaced(
    capsys, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    (tmp_path / "notes.txt").write_text(ANYTHING)
    before = content(tmp_path)
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    words = FOLDERS[command]
    for out, said in (
        (bundle, "already contains"),
        (bundle / "inside" / "deeper", "is inside the bundle"),
        (bundle / "model.safetensors" / "x", "is inside the bundle"),
        (bundle / "model.safetensors", "is a file"),
        (tmp_path / "notes.txt" / "x", "is a file"),
        (".", "is the folder that the command runs in"),
        (here, "is the folder that the command runs in"),
        ("/proc/self/new", "could not be written"),
        ("/proc/new/deeper", "could not be written"),
    ):
        assert said in refused(capsys, words, out, bundle)
    assert content(tmp_path) == before and not list(here.iterdir())


@pytest.mark.parametrize("command", FILES | FOLDERS)
def test_a_place_that_cannot_be_written_is_found_before_the_work(
    capsys, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    def no_room(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(tempfile, "mkdtemp", no_room)
    said = refused(capsys, (FILES | FOLDERS)[command], tmp_path / "new", bundle)
    assert said == f"error: {tmp_path / 'new'} could not be written: Read-only file system\n"


def test_checking_leaves_nothing_behind(tmp_path: Path) -> None:
    output.require_new_folder(tmp_path / "a" / "b" / "c")
    output.require_file(tmp_path / "file", "report", lambda _: False)
    output.require_folder_for_files(tmp_path / "d")
    assert not list(tmp_path.iterdir())


def test_a_mount_point_is_refused(small_disk, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is a mount point; choose a folder inside it"):
        output.require_new_folder(small_disk("1m"))


def test_exports_are_added_to_a_folder_and_replaced(bundle: Path, tmp_path: Path) -> None:
    require_exportable(bundle, ["onnx", "pt2"])  # beside the weights of the bundle itself
    model, preprocess, other = random_vit(TINY), Preprocess(TINY.image_size), tmp_path / "other"
    other.mkdir()
    export_onnx(model, other / "model.onnx", preprocess)
    export_pt2(model, other / "model.pt2", preprocess)
    require_exportable(other, ["onnx", "pt2"])
    shutil.copy(other / "model.onnx", other / "model.pt2")
    with pytest.raises(ValueError, match=r"model\.pt2 exists and is no export"):
        require_exportable(other, ["onnx", "pt2"])
    (other / "model.onnx").write_text(ANYTHING)
    with pytest.raises(ValueError, match=r"model\.onnx exists and is no export"):
        require_exportable(other, ["onnx"])
    with pytest.raises(ValueError, match="is a file; choose a folder"):
        require_exportable(other / "model.onnx", ["onnx"])
    with pytest.raises(ValueError, match="is inside the bundle"):
        require_exportable(bundle / "onnx", ["onnx"])
    with pytest.raises(OutputError, match="could not be written"):
        require_exportable(Path("/proc/new"), ["onnx"])


# ---- two that write to one place


def at_once(count: int, work: Callable[[int], None]) -> list[str]:
    """What becomes of so many threads that do a thing at the same moment: "written", or a sentence."""
    gate, said = threading.Barrier(count), [""] * count

    def begin(number: int) -> None:
        gate.wait()
        try:
            work(number)
            said[number] = "written"
        except OutputError as error:
            said[number] = str(error)

    threads = [threading.Thread(target=begin, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return said


def require_one(said: list[str]) -> int:
    """Check that one alone has written; its number."""
    assert said.count("written") == 1
    assert all("was written by another command in the meantime" in one for one in said if one != "written")
    return said.index("written")


@pytest.mark.parametrize("there", ["nothing", "an empty folder"])
def test_one_of_several_that_write_a_new_folder(tmp_path: Path, there: str) -> None:
    for attempt in range(20):
        place, begun = tmp_path / str(attempt), threading.Barrier(4, timeout=60)
        if there == "an empty folder":
            place.mkdir()

        def work(number: int, place: Path = place, begun: threading.Barrier = begun) -> None:
            with staged_folder(place) as stage:
                (stage / "who").write_text(str(number))
                begun.wait()  # all have found the place free

        first = require_one(at_once(4, work))
        assert (place / "who").read_text() == str(first)
        assert {path.name for path in tmp_path.iterdir()} == {str(n) for n in range(attempt + 1)}


def test_one_of_several_that_replace_a_bundle(bundle: Path, tmp_path: Path) -> None:
    for _ in range(10):
        begun = threading.Barrier(3, timeout=60)

        def work(number: int, begun: threading.Barrier = begun) -> None:
            with staged_folder(bundle, overwrite=True) as stage:
                for name in REQUIRED_FILES:
                    (stage / name).write_text(str(number))
                begun.wait()

        first = require_one(at_once(3, work))
        assert (bundle / REQUIRED_FILES[0]).read_text() == str(first)
        assert [path.name for path in tmp_path.iterdir()] == ["tiny"]


@pytest.mark.parametrize("there", [False, True])
def test_one_of_several_that_write_a_file(tmp_path: Path, there: bool) -> None:
    file = tmp_path / "report.html"
    for _ in range(20):
        file.unlink(missing_ok=True)
        if there:
            file.write_text("an earlier report")
        free = [output.require_file(file, "report", lambda _: True) for _ in range(4)]
        first = require_one(at_once(4, lambda number, free=free: free[number].write(str(number))))
        assert file.read_text() == str(first)
        assert list(tmp_path.iterdir()) == [file]


def test_one_of_several_that_add_files_to_a_folder(tmp_path: Path) -> None:
    (tmp_path / "model.pt2").write_text("an earlier export")
    begun = threading.Barrier(3, timeout=60)

    def work(number: int) -> None:
        with staged_files(tmp_path) as stage:
            for name in ("model.onnx", "model.pt2"):
                (stage / name).write_text(str(number))
            begun.wait()

    first = require_one(at_once(3, work))
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "model.onnx": str(first),
        "model.pt2": str(first),
    }


def test_a_command_that_comes_second_says_so(capsys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reading = HeadReading((2,), 1, {"entropy": (0.0, 1.0)}, {}, "demo")

    def slow(*_: object) -> HeadReading:
        save_json(reading, tmp_path / "heads.json")  # another command, while this one is at work
        return reading

    monkeypatch.setattr("pruning.cli.heads.run_heads", slow)
    assert main([*FILES["heads"], str(tmp_path / "heads.json")]) == 1
    assert "was written by another command in the meantime" in capsys.readouterr().err
