"""What many tests share: a tiny seeded model, and where the optional real data lies."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from analysis.setup import setup

setup()  # before torch is loaded

import numpy as np
import pytest
import torch
from PIL import Image

from analysis.models import Preprocess
from analysis.vit import ViT
from pruning.bundle import write_bundle
from pruning.jobs import registry
from pruning.runs import folder as runs
from pruning.runs.queue import dispatch, spawn
from tests.support.fake_runs import FAKE
from tests.support.models import ROOT, TINY, VARIANTS, random_images, random_vit
from tests.support.rough_products import make_products_rough

# Beside others one thread each, and so in the processes that a test starts.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else 2)


# Collecting makes millions of objects that stay. The garbage collector looks at none of them: neither while
# they are made nor after each test, which would take a tenth of the time.
gc.disable()


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True)
def _cache_of_this_test(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What one test measures and keeps, no other finds."""
    monkeypatch.setenv("PRUNESCOPE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def tiny() -> ViT:
    return random_vit(TINY)


@pytest.fixture
def images() -> torch.Tensor:
    return random_images(TINY)


@pytest.fixture(params=VARIANTS.values(), ids=list(VARIANTS))
def variant(request: pytest.FixtureRequest) -> ViT:
    return random_vit(request.param)


@pytest.fixture
def rough_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """Matrix products that are not symmetric in their last bits, as those of some processors are not."""
    make_products_rough(monkeypatch)
    square = torch.ones(3, 4) @ torch.ones(4, 3)
    assert not torch.equal(square, square.T)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts a disk of the size it is given, such as 1m; skips the test where that cannot be done."""
    place = tmp_path / "disk"

    def mount(size: str) -> Path:
        place.mkdir()
        words = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
        try:
            mounted = subprocess.run(words, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            pytest.skip("there is no mount here")
        if mounted.returncode:
            pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.strip()}")
        return place

    yield mount
    if place.is_mount():
        subprocess.run(["umount", str(place)], check=True)


@pytest.fixture
def tiny_data(tmp_path: Path) -> tuple[str, str]:
    """A tiny model as a bundle, and a folder of noise for it."""
    labels = tuple(f"c{i}" for i in range(TINY.num_classes))
    write_bundle(
        tmp_path / "tiny",
        random_vit(TINY),
        Preprocess(TINY.image_size, labels=labels),
        name="tiny",
        report={"method": "none"},
    )
    draw = np.random.default_rng(0)
    for label in labels:
        (tmp_path / "images" / label).mkdir(parents=True)
        for number in range(4):
            pixels = draw.integers(0, 256, (*TINY.image_size, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / label / f"{number}.png")
    return "tiny", "images"  # relative: the run must find them


@pytest.fixture
def real_data() -> Path:
    """The folder of real weights and photos, which never enter the project."""
    folder = Path(os.environ.get("PRUNESCOPE_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / "imagenet-val-650.zip").exists():
        pytest.skip("real weights and photos are not here: set PRUNESCOPE_DATA to their folder")
    return folder


@pytest.fixture
def fake_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A kind of run that only counts, and a folder of runs for the test."""
    monkeypatch.setitem(registry.RUN_KINDS, "fake", FAKE)
    monkeypatch.setenv("PRUNESCOPE_RUNS", str(tmp_path / "runs"))
    for name in ("MLFLOW_TRACKING_URI", "PRUNESCOPE_AT_ONCE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def start_fakes(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Processes that the project starts know the fake kind; none of them outlives the test."""
    code = (
        "import sys; from tests.support import fake_runs as t; from pruning.cli.main import main\n"
        "from pruning.runs.queue import spawn; spawn.COMMAND = tuple(sys.orig_argv[:3])\n"
        "t.registry.RUN_KINDS['fake'] = t.FAKE; sys.exit(main())"
    )
    monkeypatch.setattr(spawn, "COMMAND", (sys.executable, "-c", code))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    yield
    for run in [run for run in runs.list_runs() if run.status.waiting]:
        dispatch.drop_from_queue(run)  # which ends the dispatcher
    for run in runs.list_runs():
        if run.active and run.status.pid:
            os.kill(run.status.pid, signal.SIGKILL)


@pytest.fixture
def nothing_hangs() -> Iterator[None]:
    """End this process where a read waits for ever: no exception could reach it."""
    timer = threading.Timer(20.0, lambda: os._exit(70))
    timer.start()
    yield
    timer.cancel()
