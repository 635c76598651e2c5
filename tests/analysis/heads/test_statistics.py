from __future__ import annotations

import math

import pytest
import torch

from analysis.attention.capture import capture
from analysis.heads import statistics
from analysis.vit import ViT
from tests.support.models import random_images


def twin_confidence(rows: torch.Tensor, arch) -> float:
    return sum(max(row) for row in rows.tolist()) / len(rows)


def twin_entropy(rows: torch.Tensor, arch) -> float:
    total = sum(-value * math.log2(value) for row in rows.tolist() for value in row if value > 0)
    return total / len(rows)


def twin_distance(rows: torch.Tensor, arch) -> float:
    prefix, columns = len(arch.prefix_names), arch.grid[1]
    far = mass = 0.0
    for i in range(prefix, len(rows)):
        for j in range(prefix, len(rows)):
            here, there = divmod(i - prefix, columns), divmod(j - prefix, columns)
            far += float(rows[i, j]) * math.dist(here, there)
            mass += float(rows[i, j])
    return far / mass


def twin_prefix(rows: torch.Tensor, arch) -> float:
    prefix = len(arch.prefix_names)
    return sum(sum(row[:prefix]) for row in rows.tolist()) / len(rows)


@pytest.mark.parametrize(
    ("read", "twin"),
    [
        (statistics.confidence, twin_confidence),
        (statistics.entropy, twin_entropy),
        (statistics.attended_distance, twin_distance),
        (statistics.prefix_mass, twin_prefix),
    ],
)
def test_equal_the_twins_on_every_architecture(read, twin, variant: ViT) -> None:
    images = random_images(variant.arch, count=2)
    with capture(variant) as record:
        for block in record(images):
            got = read(block, variant.arch)
            assert got.shape == block.attention.shape[:2]
            for image in range(2):
                for head in range(got.shape[1]):
                    expected = twin(block.attention[image, head], variant.arch)
                    assert float(got[image, head]) == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_entropy_of_rows_that_are_known() -> None:
    rows = torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.25, 0.25, 0.25, 0.25]])
    assert float(statistics.bits(rows)) == pytest.approx(1.0)
