"""What many tests share: a tiny seeded model, and where the optional real data lies."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from analysis.vit import Architecture, BlockWidths, ViT

ROOT = Path(__file__).parent.parent
torch.set_num_threads(2)

TINY = Architecture(
    image_size=(16, 24),
    patch_size=(8, 8),
    embed_dim=24,
    blocks=(BlockWidths(3, 8, 8, 32), BlockWidths(3, 8, 8, 32)),
    num_classes=10,
    scale=8**-0.5,
)
# Every feature of an architecture at least once, and widths that differ everywhere.
VARIANTS = {
    "plain": TINY,
    "distilled": replace(TINY, distilled=True),
    "layer scale, no prefix in pos_embed": replace(TINY, layer_scale=True, pos_embed_prefix=False),
    "registers": replace(TINY, registers=3, layer_scale=True),
    "average pool": replace(TINY, pool="avg", norm_before_pool=False),
    "no class token": replace(TINY, pool="avg", class_token=False, qkv_bias=False),
    "pre-norm": replace(TINY, pre_norm=True, activation="quick_gelu"),
    "no head": replace(TINY, num_classes=0),
    "rms norms": replace(TINY, norm="rms", distilled=True),
    "uneven": replace(TINY, blocks=(BlockWidths(3, 5, 7, 20), BlockWidths(2, 9, 4, 11))),
}


def random_vit(arch: Architecture, seed: int = 0) -> ViT:
    """A model in which every parameter matters: none is zero or one by initialisation."""
    generator = torch.Generator().manual_seed(seed)
    model = ViT(arch).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator) * 0.3
            gain = "norm" in name and name.endswith("weight")
            parameter.copy_(1 + noise if gain or "gamma" in name else noise)
    return model


def random_images(arch: Architecture, count: int = 4, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, arch.in_channels, *arch.image_size, generator=generator)


def batches(images: torch.Tensor, size: int = 4) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Images in batches, with labels that go round the classes 0 to 9."""
    labels = torch.arange(len(images)) % 10
    return list(zip(images.split(size), labels.split(size), strict=True))


@pytest.fixture
def tiny() -> ViT:
    return random_vit(TINY)


@pytest.fixture
def images() -> torch.Tensor:
    return random_images(TINY)


@pytest.fixture(params=VARIANTS.values(), ids=VARIANTS.keys())
def variant(request: pytest.FixtureRequest) -> ViT:
    return random_vit(request.param)


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
def real_data() -> Path:
    """The folder of real weights and photos, which never enter the project."""
    folder = Path(os.environ.get("PRUNESCOPE_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / "imagenet-val-650.zip").exists():
        pytest.skip("real weights and photos are not here: set PRUNESCOPE_DATA to their folder")
    return folder
