"""Serving others: what `--share` opens, what it does not, and how much it takes."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image
from starlette.exceptions import HTTPException
from streamlit.runtime.memory_uploaded_file_manager import MemoryUploadedFileManager

from analysis import paths
from analysis.data.open import open_data
from analysis.models.load import DEMO, architecture, load
from analysis.models.preprocess import Preprocess
from analysis.models.weights import read_weights
from app import share
from app.state import comparison, session_runs, uploads
from pruning.cut import Ratios
from pruning.jobs import BenchJob, Job, RecoverJob, TrialJob
from pruning.runs import folder as runs
from pruning.runs.queue import turns
from tests.support.fake_runs import folder_of, status, wait_for


@pytest.fixture
def places(tmp_path: Path, fake_runs: None, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """A folder that is shared and one that is not, with the same in both: images, a bundle, a run."""
    monkeypatch.setenv("PRUNESCOPE_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("PRUNESCOPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("tempfile.tempdir", None)
    for name in (paths.LIMIT, "HF_HUB_OFFLINE"):  # what `options` sets is taken back at the end
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    for place in (shared := tmp_path / "shared", private := tmp_path / "private"):
        for label in ("circle", "ring"):
            (place / "photos" / label).mkdir(parents=True)
            for number in range(2):
                Image.new("RGB", (8, 8)).save(place / "photos" / label / f"{number}.png")
        shutil.copytree(DEMO, place / "demo copy")
    shutil.move(folder_of(tmp_path), shared / "run")
    shutil.copytree(shared / "run", private / "run")
    monkeypatch.setattr(MemoryUploadedFileManager, "add_file", MemoryUploadedFileManager.add_file)
    known, rest = share.parse(["--share", "--folder", str(shared), "--server.port", "9"])
    assert rest == ["--server.port", "9"]
    share.options(known)
    return shared, private


def _run(path: str) -> None:
    found = runs.read(path)
    if found.job is None:
        raise ValueError(found.problem)


READERS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "images": ("photos", lambda path: open_data(path, Preprocess((8, 8)), 0).image(0)),
    "cifar10": ("photos", lambda path: open_data(f"cifar10:{path}", Preprocess((8, 8)), 0)),
    "model": ("demo copy", load),
    "architecture": ("demo copy", architecture),
    "weights": ("demo copy/model.safetensors", lambda path: read_weights(Path(path))),
    "run": ("run", _run),
}


@pytest.mark.parametrize("kind", [kind for kind in READERS if kind != "cifar10"])
def test_what_lies_in_a_shared_folder_opens(kind: str, places: tuple[Path, Path]) -> None:
    name, reader = READERS[kind]
    reader(str(places[0] / name))


@pytest.mark.parametrize("way", ["absolute", "upwards", "link", "missing", "relative", "home"])
@pytest.mark.parametrize("kind", READERS)
def test_nothing_else_opens_nor_shows_whether_it_is_there(
    kind: str, way: str, places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    (shared, private), (name, reader) = places, READERS[kind]
    monkeypatch.chdir(private)
    monkeypatch.setenv("HOME", str(private))
    (shared / "link").symlink_to(private)
    text = {
        "absolute": str(private / name),
        "upwards": str(shared / ".." / "private" / name),
        "link": str(shared / "link" / name),
        "missing": str(private / "missing" / name),
        "relative": f"./{name}",
        "home": f"~/{name}",
    }[way]
    with pytest.raises(ValueError, match="is outside of the folders that may be opened here") as caught:
        reader(text)
    assert type(caught.value) is paths.NotAllowedError


def test_links_inside_a_shared_folder_do_not_lead_out(places: tuple[Path, Path]) -> None:
    shared, private = places
    before = len(open_data(str(shared / "photos"), Preprocess((8, 8)), 0))
    (shared / "photos" / "square").symlink_to(private / "photos" / "ring")
    (shared / "photos" / "ring" / "linked.png").symlink_to(private / "photos" / "ring" / "0.png")
    images = open_data(str(shared / "photos"), Preprocess((8, 8)), 0)
    assert images.classes == ("circle", "ring") and len(images) == before + 1
    with pytest.raises(ValueError, match=r"linked.png cannot be opened: it is outside"):
        images.image(len(images) - 1)
    weights = shared / "demo copy" / "model.safetensors"
    weights.unlink()
    weights.symlink_to(private / "demo copy" / "model.safetensors")
    with pytest.raises(ValueError, match="is outside of the folders"):
        load(str(shared / "demo copy"))


def test_runs_read_no_more_than_visitors_may(places: tuple[Path, Path]) -> None:
    shared, private = (str(place) for place in places)
    for job in (
        Job("demo", f"{shared}/photos"),
        Job("hf-hub:a/b", "demo", weights=f"{shared}/w.pth"),
        TrialJob(Job("demo", f"{shared}/photos")),
        BenchJob((("demo", None), ("deit_tiny_patch16_224", f"{shared}/w.pth"))),
    ):
        share.require_allowed(job)
    for refused in (
        Job("demo", f"{private}/photos"),
        Job("demo", f"cifar10:{private}/photos"),
        Job("demo", "demo", calibration=f"{private}/photos"),
        TrialJob(Job("demo", f"{private}/photos")),
        TrialJob(Job(f"{private}/demo copy", "demo")),
        RecoverJob("demo", f"{private}/demo copy", "demo"),
        RecoverJob("demo", "demo", "demo", test_data=f"{private}/photos"),
        BenchJob((("demo", None), ("deit_tiny_patch16_224", f"{private}/w.pth"))),
    ):
        with pytest.raises(ValueError, match="is outside of the folders"):
            share.require_allowed(refused)


def test_the_processes_it_starts_are_limited_too(places: tuple[Path, Path]) -> None:
    folders = os.environ[paths.LIMIT].split(os.pathsep)
    assert str(places[0]) in folders and str(places[1]) not in folders
    assert str(runs.runs_root()) in folders
    assert os.environ["HF_HUB_OFFLINE"] == "1"


def test_a_run_of_a_visitor_comes_to_its_end(places: tuple[Path, Path]) -> None:
    """Its process is limited, and reads files of the app."""
    run = session_runs.begin(Job("demo", "demo", "l1", ratios=Ratios(mlp=0.5), limit=10))
    done = wait_for(lambda: (found := runs.read(run.folder)).state not in ("queued", "running") and found)
    assert done.state == "done", runs.log(run.folder)


@pytest.mark.parametrize("kind", [kind for kind in READERS if kind not in ("model", "architecture")])
def test_a_bare_name_does_not_tell_what_lies_in_the_servers_folder(kind, places, monkeypatch) -> None:
    private = places[1]
    monkeypatch.chdir(private)
    name, reader = READERS[kind]
    (private / "weights.pth").touch()
    there, missing = ("weights.pth", "other.pth") if kind == "weights" else (name, "other")
    said = []
    for text in (there, missing):
        with pytest.raises(paths.NotAllowedError) as caught:
            reader(text)
        said.append(str(caught.value).replace(repr(text), "NAME"))
    assert said[0] == said[1] and str(private) not in said[0]


def test_a_bare_name_is_that_of_a_model_alone(places, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(places[1])
    said = []
    for name in ("demo copy", "demo other"):
        with pytest.raises(ValueError, match=name) as caught:
            load(name)
        said.append(str(caught.value).replace(name, "NAME"))
    assert said[0] == said[1]
    assert architecture("deit_tiny_patch16_224").depth == 12


def test_whether_there_is_a_run_above_a_shared_folder_is_not_told(places: tuple[Path, Path]) -> None:
    shared = places[0]
    for there in (False, True):
        if there:
            (shared.parent / runs.JOB).write_text("{}")
        with pytest.raises(ValueError, match="is neither a run folder nor a bundle"):
            comparison.open_path(str(shared))


def test_only_the_servers_own_runs_are_resumed_and_cancelled(places, tmp_path: Path) -> None:
    for act in (session_runs.resume, session_runs.cancel):
        with pytest.raises(ValueError, match="lies in a shared folder"):
            act(places[0] / "run")
    own = folder_of(tmp_path, name="own")
    with pytest.raises(ValueError, match="is interrupted; only"):
        session_runs.cancel(own)


def test_resuming_is_bounded_as_starting_is(places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = []
    monkeypatch.setattr("pruning.runs.resume", lambda folder, most_waiting: given.append(most_waiting))
    session_runs.resume(folder_of(tmp_path, name="own"))
    assert given == [share.MOST_WAITING_SHARED]


def test_runs_of_other_limits_have_another_dispatcher(places, monkeypatch: pytest.MonkeyPatch) -> None:
    limited = turns.limits()
    monkeypatch.delenv("HF_HUB_OFFLINE")
    with_hub = turns.limits()
    monkeypatch.delenv(paths.LIMIT)
    assert len({limited, with_hub, turns.limits()}) == 3 and turns.limits() == ""
    root = Path("runs")
    of = lambda limits: runs.dispatcher_lock(root, status(host="a", device="cpu", limits=limits))
    assert of(limited) != of("")


def test_uploads_on_disk_are_bounded_and_named_safely(places, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.state.memo.st.session_state", {})
    monkeypatch.setattr(share, "MOST_UPLOAD_MB", 1)

    def send(name: str, size: int) -> Path:
        content = io.BytesIO(os.urandom(size))
        upload = SimpleNamespace(name=name, size=size, getbuffer=content.getbuffer)
        return Path(uploads.save_upload(upload, "images"))

    for name in ("a" * 300 + ".zip", "é" * 200 + ".zip", "..", "", "x/../y\0.zip"):
        file = send(name, 100_000)
        assert file.is_file() and file.is_relative_to(uploads.workspace())
        assert file.suffix == (".zip" if name.endswith(".zip") else "")
    with pytest.raises(ValueError, match="no room for more uploads"):
        send("big.zip", 700_000)


def test_uploads_are_bounded_in_number_and_bytes(places, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(share, "MOST_UPLOADS", 3)
    monkeypatch.setattr(share, "MOST_UPLOAD_MB", 1)
    manager: Any = MemoryUploadedFileManager("/upload")
    send = lambda session, name, size: manager.add_file(
        session, SimpleNamespace(file_id=name, data=bytes(size))
    )
    send("one", "a", 600_000)
    with pytest.raises(HTTPException) as caught:
        send("two", "b", 600_000)
    assert caught.value.status_code == 413
    send("two", "b", 1000)
    send("two", "c", 1000)
    with pytest.raises(HTTPException):
        send("three", "d", 1)
    manager.remove_session_files("one")
    send("three", "d", 600_000)


def test_uploads_that_runs_keep_are_bounded(places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(share, "MOST_KEPT_MB", 1)
    (tmp_path / "runs" / "kept" / "a").mkdir(parents=True)
    (tmp_path / "runs" / "kept" / "a" / "photos.zip").write_bytes(bytes(600_000))
    share.require_room(tmp_path / "runs" / "kept", 1000)
    with pytest.raises(ValueError, match=r"take up 1 MB of at most 1"):
        share.require_room(tmp_path / "runs" / "kept", 600_000)


def test_without_share_every_path_opens_and_loopback_is_all_it_listens_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known, rest = share.parse(["--server.port=9"])
    assert share.options(known) == ["--server.address=localhost"] and rest == ["--server.port=9"]
    assert not share.is_shared() and paths.is_allowed(tmp_path)
    for words in (["--folder", "x"], ["--hub"]):
        with pytest.raises(SystemExit):
            share.parse(words)
        assert "need --share" in capsys.readouterr().err
    known, _ = share.parse(["--share", "--folder", str(tmp_path / "missing")])
    with pytest.raises(ValueError, match="--folder must name a folder that exists"):
        share.options(known)
    assert not share.is_shared()


@pytest.mark.parametrize(
    ("address", "private"),
    [
        *((text, True) for text in ("localhost", "127.0.0.1", "127.1.2.3", "::1", "[::1]", "unix:///x")),
        *((text, False) for text in (None, "", "0.0.0.0", "::", "192.168.1.2", "example.org", "localhost.x")),
    ],
)
def test_which_addresses_are_private(address: str | None, private: bool) -> None:
    assert share.is_private(address) == private


def test_a_stray_word_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        share.parse(["prune"])
    assert stop.value.code == 2 and "leave it out" in capsys.readouterr().err
    assert share.parse(["--server.port", "8502"])[1] == ["--server.port", "8502"]
