"""What the tests of training share: small sets of images, and a monitor that keeps what it is told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from analysis.data.image_set import ImageSet
from analysis.data.open import open_data
from analysis.models.preprocess import Preprocess
from pruning.progress import Cancelled, Monitor
from pruning.training.recipe import Training
from tests.support.models import TINY

PREPROCESS = Preprocess(TINY.image_size)
PLAIN = Training(
    epochs=3,
    batch=40,
    lr=1e-2,
    min_lr=0.0,
    warmup=0.0,
    clip=0.5,
    augment="none",
    smoothing=0.0,
    ema=0.9,
    workers=0,
    precision="float32",  # so that formulas hold on a GPU, too
)
LIVELY = replace(PLAIN, batch=10, lr=1e-3, augment="light", mixup=0.8, cutmix=1.0, smoothing=0.1)


def write_images(folder: Path, each: int = 4, classes: int = 10, seed: int = 0) -> Path:
    """A folder of `each` random pictures for each of the classes 0, 1, ...; another seed gives others."""
    dice = np.random.default_rng(seed)
    for label in range(classes):
        (folder / str(label)).mkdir(parents=True, exist_ok=True)
        for number in range(each):
            pixels = dice.integers(0, 256, (*TINY.image_size, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / str(label) / f"{number}.png")
    return folder


def image_set(folder: Path, each: int = 4) -> ImageSet:
    return open_data(write_images(folder / "images", each), PREPROCESS, TINY.num_classes)


class Recorder(Monitor):
    """Keeps figures, notes and progress; asks for an end at the call numbered `cancel_at`."""

    def __init__(self, folder: Path | None = None, cancel_at: int | None = None) -> None:
        self.folder, self.cancel_at = folder, cancel_at
        self.figures: list[tuple[int, dict[str, float]]] = []
        self.notes: list[str] = []
        self.shares: list[float] = []
        self.told: Callable[[str, float], object] = lambda what, share: None  # a test may look around here

    def __call__(self, what: str, share: float) -> None:
        self.shares.append(share)
        self.told(what, share)
        if len(self.shares) == self.cancel_at:
            raise Cancelled

    def metrics(self, step: int, **values: float) -> None:
        self.figures.append((step, values))

    def note(self, line: str) -> None:
        self.notes.append(line)

    def curve(self, name: str) -> list[tuple[int, float]]:
        return [(step, values[name]) for step, values in self.figures if name in values]


# everything random at once, in steps of ten images: four an epoch
