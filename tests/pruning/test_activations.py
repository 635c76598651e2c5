"""Activations on disk: they come back as they were, and their folder goes whatever happens."""

from __future__ import annotations

import gc
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch

from pruning.activations import Activations
from pruning.budget.sensitivity import measure_sensitivities, narrow_by_scores
from pruning.criteria.magnitude import SeedOptions, random
from pruning.projection.spectral import SpectralOptions, narrow_spectral
from tests.support.models import ROOT, TINY, batches, random_images, random_vit


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
    assert not list(tmp_path.glob("prunescope-*"))


def test_sensitivities_leave_nothing_behind(temporary: Path) -> None:
    model, seen = random_vit(TINY), []
    narrow = narrow_by_scores(model, random(model, [], SeedOptions(seed=5)))
    look = lambda *_: seen.append(len(list(temporary.rglob("*.npy"))))
    measure_sensitivities(model, batches(random_images(TINY), 2), narrow, progress=look)
    assert set(seen) == {0, 4}  # a stream and the logits of two batches, until the last word
    assert not list(temporary.iterdir())
