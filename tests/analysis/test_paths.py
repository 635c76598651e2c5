"""Paths that a user wrote and files that others wrote: a result or one sentence, and no waiting for ever."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from analysis import paths
from analysis.data.image_set import ImageSet
from analysis.data.images import BadImageError, read_image
from analysis.data.open import open_data
from analysis.formats import read_text
from analysis.models.load import architecture, load
from analysis.models.preprocess import Preprocess
from analysis.models.weights import read_weights
from tests.support.bad_paths import BAD_PATHS, NOT_FILES, bad_path
from tests.support.models import ROOT


@pytest.mark.parametrize("name", BAD_PATHS)
def test_a_path_that_no_file_can_have(name: str, tmp_path: Path) -> None:
    text, said = bad_path(name, tmp_path)
    with pytest.raises(ValueError, match=f"^the folder .*{said}") as caught:
        paths.user_path(text, "the folder")
    assert len(str(caught.value)) < 250
    for reader in (load, architecture, lambda text: read_weights(Path(text)), _open):
        if not (text == "" and reader in (load, architecture)):  # those have a sentence of their own
            with pytest.raises(ValueError, match=r".") as caught:
                reader(text)
            assert type(caught.value) is ValueError  # no UnicodeEncodeError


def _open(text: str) -> ImageSet:
    return open_data(text, Preprocess((8, 8)), 0)


def test_other_paths_come_back_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for text in ("new", "a/b", "a\nb", "été", str(tmp_path), "*", " a"):
        assert paths.user_path(text) == Path(text)
    assert paths.user_path("~/x") == tmp_path / "x"
    (tmp_path / "file").touch()
    assert paths.user_path(tmp_path / "file" / "inside") == tmp_path / "file" / "inside"


def test_questions_about_a_path_never_fail(tmp_path: Path) -> None:
    for name in BAD_PATHS.keys() - {"nothing"}:
        path = Path(bad_path(name, tmp_path)[0])
        assert not paths.is_file(path) and not paths.is_folder(path) and not paths.is_there(path)
        assert "\0" in str(path) or paths.absolute(path).is_absolute()
    (tmp_path / "file").touch()
    for path, file in ((tmp_path, False), (tmp_path / "file", True)):
        assert paths.is_there(path) and paths.is_file(path) == file and paths.is_folder(path) != file


@pytest.mark.parametrize("kind", NOT_FILES)
def test_only_regular_files_are_read(kind: str, tmp_path: Path) -> None:
    place = tmp_path / "cat" / "z.png"
    place.parent.mkdir()
    NOT_FILES[kind](place)
    said = f"it is {kind}, not a regular file"
    with pytest.raises(OSError, match=said):
        paths.open_regular(place)
    with pytest.raises(OSError, match=said):
        paths.read_regular(place, 10)
    with pytest.raises(ValueError, match=said):
        read_text(place)
    with pytest.raises(BadImageError, match=f"^z.png cannot be opened: {said}$"):
        read_image(place)
    Image.new("RGB", (8, 8)).save(tmp_path / "cat" / "a.png")
    images = open_data(str(tmp_path), Preprocess((8, 8)), 0)
    if kind == "a folder":  # it is walked through like any other
        assert images.source.names == ("cat/a.png",)
        return
    assert images.source.names == ("cat/a.png", "cat/z.png")
    with pytest.raises(BadImageError, match=said):
        images.image(1)
    with pytest.raises(BadImageError, match=said):
        images.source.content(1)


def test_files_are_read_to_a_bound(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"12345")
    assert paths.read_regular(file, 5) == b"12345"
    with pytest.raises(OSError, match="it is too large: 5 bytes, at most 4 are read"):
        paths.read_regular(file, 4)
    with pytest.raises(OSError, match="too large"):  # it says that it is empty
        paths.read_regular(Path("/proc/self/maps"), 4)
    big = tmp_path / "big.png"
    with big.open("wb") as stream:
        stream.truncate(2**40)  # takes no room on the disk
    with pytest.raises(BadImageError, match=r"^big\.png cannot be opened: it is too large"):
        read_image(big)


def test_nobody_else_reads_what_a_user_wrote_as_a_path() -> None:
    for package in ("analysis", "pruning", "app"):
        for file in (ROOT / package).rglob("*.py"):
            if file != Path(paths.__file__):
                assert "expanduser" not in file.read_text(encoding="utf-8"), file
