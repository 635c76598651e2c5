"""Activations on disk: they come back as they were, and their folder goes whatever happens."""

from __future__ import annotations

import fcntl
import gc
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch

from pruning import files
from pruning.activations import Activations, sweep
from pruning.budget.sensitivity import measure_sensitivities, narrow_by_scores
from pruning.cli.main import main
from pruning.criteria.magnitude import SeedOptions, random
from pruning.cut.ratios import Ratios
from pruning.jobs.prune_job import Job
from pruning.jobs.run_prune import prune
from pruning.projection.spectral import SpectralOptions, narrow_spectral
from tests.support.jobs import dense
from tests.support.models import ROOT, TINY, batches, random_images, random_vit
from tests.support.training import Recorder


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_they_come_back_as_they_were(temporary: Path) -> None:
    first, second = torch.randn(2, 3, 4), torch.randn(2, 3, 4, dtype=torch.float64)
    with Activations() as stored:
        stored.write(0, stream=first, logits=second)
        stored.write(1, stream=first + 1)
        assert torch.equal(stored.read(0, "stream"), first)
        assert (
            torch.equal(stored.read(0, "logits"), second) and stored.read(0, "logits").dtype == torch.float64
        )
        stored.write(0, stream=first * 2)
        assert torch.equal(stored.read(0, "stream"), first * 2)
        assert torch.equal(stored.read(1, "stream"), first + 1)


def test_the_folder_goes_with_the_block_also_after_an_error(temporary: Path) -> None:
    with pytest.raises(OSError, match="no space"), Activations() as stored:
        stored.write(0, stream=torch.ones(2))
        assert list(temporary.rglob("*.npy"))
        raise OSError("no space left on device")
    assert not list(temporary.iterdir())


def test_the_folder_goes_as_soon_as_nobody_holds_the_object(temporary: Path) -> None:
    narrow = narrow_spectral(random_vit(TINY), batches(random_images(TINY)), SpectralOptions(images=4))
    narrow(0, "mlp", 7)
    assert len(list(temporary.iterdir())) == 1
    del narrow
    gc.collect()
    assert not list(temporary.iterdir())


def test_the_folder_goes_when_python_ends(tmp_path: Path) -> None:
    code = "import torch; from pruning.activations import Activations\n"
    code += "held = Activations(); held.write(0, x=torch.ones(1))"
    environment = {"TMPDIR": str(tmp_path), "PATH": ""}
    subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=ROOT, env=environment, check=True)
    assert not list(tmp_path.iterdir())


def test_sensitivities_leave_nothing_behind(temporary: Path) -> None:
    model, seen = random_vit(TINY), []
    narrow = narrow_by_scores(model, random(model, [], SeedOptions(seed=5)))
    look = lambda *_: seen.append(len(list(temporary.rglob("*.npy"))))
    measure_sensitivities(model, batches(random_images(TINY), 2), narrow, progress=look)
    assert set(seen) == {0, 4}  # a stream and the logits of two batches, until the last word
    assert not list(temporary.iterdir())


# ---- what a killed process leaves

KILLED = """
import os, signal, sys, torch
from pathlib import Path
from pruning import files
from pruning.activations import Activations, sweep
place = Path(sys.argv[1]) if len(sys.argv) > 1 else None
held = Activations(place=place)
held.write(0, x=torch.ones(1))
os.kill(os.getpid(), signal.SIGKILL)
"""


def kill_one_at_work(temporary: Path, *place: Path) -> None:
    environment = {"TMPDIR": str(temporary), "PATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", KILLED, *map(str, place)], cwd=ROOT, env=environment, check=False
    )
    assert done.returncode == -signal.SIGKILL


def test_the_next_command_removes_what_a_killed_one_left(temporary: Path, capsys) -> None:
    kill_one_at_work(temporary)
    assert len(list(temporary.rglob("*.npy"))) == 1
    with Activations() as mine:
        mine.write(0, x=torch.ones(1))
        assert len(list(temporary.rglob("*.npy"))) == 1
        assert main(["runs", "--root", str(temporary / "none")]) == 0
        assert torch.equal(mine.read(0, "x"), torch.ones(1))  # those in use stay
    kill_one_at_work(temporary)
    assert main(["runs", "--root", str(temporary / "none")]) == 0
    assert not list(temporary.iterdir())


def test_a_run_keeps_them_in_its_folder_and_sweeps_it(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed while it projects, and resumed: nothing is left there, nor in the folder for temporary files."""
    folder, elsewhere = temporary / "run", temporary / "tmp"
    for place in (folder, elsewhere):
        place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(elsewhere))
    kill_one_at_work(elsewhere, folder)
    left = list(folder.iterdir())
    assert left and not list(elsewhere.iterdir())
    monitor = Recorder(folder)
    sizes = Ratios(mlp=0.5, embed=0.25)
    jobs = [
        Job("demo", "demo", "spectral", ratios=sizes, options=(("images", 8),), limit=10),
        Job("demo", "demo", "l2", ratios=Ratios(mlp=0.5), compensate=True, limit=10),
    ]
    for job in jobs:
        seen: set[Path] = set()
        monitor.told = lambda *_, seen=seen: seen.update(folder.rglob("*.npy"), elsewhere.rglob("*.npy"))
        prune(job, dense=dense(), progress=monitor)
        assert seen and all(path.is_relative_to(folder) for path in seen)
        assert not any(path.exists() for path in (*seen, *left))


def test_what_is_not_ours_is_not_swept(temporary: Path) -> None:
    mine = temporary / "mine"
    (mine / "deep").mkdir(parents=True)
    (temporary / ".prunescope-activations-link").symlink_to(mine)
    (temporary / ".prunescope-activations-file").touch()
    sweep()
    assert (mine / "deep").is_dir() and len(list(temporary.iterdir())) == 3


def test_a_new_folder_that_is_being_swept_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process may take it for a leftover in the moment before it is locked."""
    taken: list[Path] = []
    flock = fcntl.flock

    def first_refused(handle: int, how: int) -> None:
        if not taken:
            taken.extend(tmp_path.iterdir())
            raise BlockingIOError
        flock(handle, how)

    monkeypatch.setattr(fcntl, "flock", first_refused)
    folder, handle = files.make_held_folder(tmp_path, "x-")
    assert folder.is_dir() and taken and folder not in taken
    os.close(handle)
