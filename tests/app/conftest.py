"""A folder of runs for every test of the app, and a small model and photos to load."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from analysis.vit import Architecture, BlockWidths
from app.state import session_runs
from pruning import runs
from tests.support.app import bundle, carry_out


@pytest.fixture(autouse=True)
def _runs_of_this_test(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A folder of runs for each test, and runs that are over as soon as they are started."""
    monkeypatch.setenv("PRUNESCOPE_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr(runs, "start", carry_out)
    session_runs.forget_listed()


@pytest.fixture(scope="module")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle without a class token, for images that are not square."""
    arch = Architecture(
        image_size=(32, 48),
        patch_size=(8, 8),
        embed_dim=24,
        blocks=(BlockWidths(3, 8, 8, 32), BlockWidths(2, 4, 8, 16)),
        num_classes=3,
        scale=8**-0.5,
        class_token=False,
        registers=1,
        pool="avg",
        norm_before_pool=False,
    )
    return bundle(arch, tmp_path_factory.mktemp("models") / "tiny", seed=0)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    pixels = np.random.default_rng(0).integers(0, 256, (8, 3, 40, 60, 3), dtype=np.uint8)
    for name, images in zip(("cat", "dog", "emu"), pixels.transpose(1, 0, 2, 3, 4), strict=True):
        (folder / name).mkdir()
        for i, image in enumerate(images):
            Image.fromarray(image).save(folder / name / f"{i}.png")
    return folder
