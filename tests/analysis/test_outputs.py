"""What models give, and how far they differ in it: against loops, and what holds for merged tokens."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from analysis.attention import capture
from analysis.outputs import (
    CLASSIFY,
    FEATURES,
    Output,
    divergence,
    gives_patches,
    kl_divergence,
    needed_tokens,
    output,
    output_from,
    probe,
    task_of,
    turned,
)
from pruning.cut import with_architecture
from tests.support.models import SHORT, SHORTER, TINY, VARIANTS, random_images, random_vit

HEADLESS = replace(TINY, num_classes=0)
MERGING = {
    "class token": replace(SHORTER["merging"], num_classes=0),
    "registers": replace(SHORTER["merging, registers"], num_classes=0),
    "average pool": replace(SHORTER["merging, average pool"], num_classes=0),
    "all merge": SHORTER["merging, no head"],
    "short": replace(SHORT, num_classes=0, skip_unread=False),
}


def cosine(a: list[float], b: list[float]) -> float:
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_task_is_told_by_the_classifier() -> None:
    assert task_of(TINY) == CLASSIFY and task_of(random_vit(HEADLESS)) == FEATURES
    assert needed_tokens(TINY) == 1 and needed_tokens(replace(TINY, distilled=True)) == 2
    assert needed_tokens(HEADLESS) is None and needed_tokens(replace(TINY, pool="avg")) is None
    assert needed_tokens(replace(HEADLESS, skip_unread=True)) == 1
    assert gives_patches(HEADLESS) and not gives_patches(replace(HEADLESS, skip_unread=True))
    assert not gives_patches(TINY)


def test_the_divergence_of_features_from_loops() -> None:
    dense, other = (Output(FEATURES, random(3, 5, seed=i), random(3, 4, 5, seed=9 + i)) for i in (0, 1))
    wanted = []
    assert dense.patches is not None and other.patches is not None
    for a, b, rows, others in zip(dense.vectors, other.vectors, dense.patches, other.patches, strict=True):
        patches = [1 - cosine(x.tolist(), y.tolist()) for x, y in zip(rows, others, strict=True)]
        wanted.append((1 - cosine(a.tolist(), b.tolist()) + sum(patches) / 4) / 2)
    torch.testing.assert_close(divergence(dense, other).tolist(), wanted)
    pooled = Output(FEATURES, other.vectors)
    alone = [1 - cosine(a.tolist(), b.tolist()) for a, b in zip(dense.vectors, other.vectors, strict=True)]
    torch.testing.assert_close(divergence(dense, pooled).tolist(), alone)
    torch.testing.assert_close(turned(dense.vectors, other.vectors).tolist(), alone)


def test_the_divergence_of_logits_is_kl() -> None:
    a, b = random(3, 5), random(3, 5, seed=1)
    wanted = kl_divergence(a, b)
    assert torch.equal(divergence(Output(CLASSIFY, a), Output(CLASSIFY, b)), wanted)


@pytest.mark.parametrize("name", [*MERGING, "no head", "plain", "average pool, no merging"])
def test_equal_models_do_not_differ(name: str) -> None:
    pooled = replace(VARIANTS["average pool"], num_classes=0)
    model = random_vit((MERGING | VARIANTS | {"average pool, no merging": pooled})[name])
    with torch.no_grad():
        found = output(model, random_images(model.arch))
    assert divergence(found, found).tolist() == [0.0] * len(found.vectors)
    torch.testing.assert_close(found.vectors, model(random_images(model.arch)))


@pytest.mark.parametrize("name", MERGING)
@torch.no_grad()
def test_a_merged_token_stands_for_all_of_its_patches(name: str) -> None:
    """Against the membership that the attention pages show."""
    model = random_vit(MERGING[name])
    images, prefix = random_images(model.arch), len(model.arch.prefix_names)
    x, sizes = model.embed(images), None
    for block in model.blocks:
        x, sizes = block(x, sizes)
    left = model.fc_norm(model.norm(x))
    with capture(model) as record:
        members = [block.left for block in record(images)][-1]
    assert members is not None
    pairs = zip(left, members.token, strict=True)
    wanted = torch.stack([torch.stack([row[token] for token in tokens]) for row, tokens in pairs])
    found = output(model, images).patches
    assert found is not None and found.shape[1] == model.arch.grid[0] * model.arch.grid[1]
    torch.testing.assert_close(found, wanted[:, prefix:])
    torch.testing.assert_close(output_from(model, model.embed(images)).patches, found)
    if model.arch.norm_before_pool:
        torch.testing.assert_close(model.forward_features(images), wanted)


@torch.no_grad()
def test_features_of_a_lean_model_are_the_pooled_ones() -> None:
    whole = random_vit(HEADLESS)
    lean = with_architecture(whole, replace(HEADLESS, skip_unread=True))
    images = random_images(HEADLESS)
    found, wanted = output(lean, images), output(whole, images)
    assert found.patches is None and wanted.patches is not None
    torch.testing.assert_close(found.vectors, wanted.vectors)
    assert float(divergence(wanted, found).max()) < 1e-6
    torch.testing.assert_close(lean.forward_features(images), whole.forward_features(images))


@torch.no_grad()
def test_the_output_from_a_later_block() -> None:
    model, images = random_vit(HEADLESS), random_images(HEADLESS)
    x, _ = model.blocks[0](model.embed(images))
    torch.testing.assert_close(output_from(model, x, 1).patches, output(model, images).patches)


@pytest.mark.parametrize("task", [CLASSIFY, FEATURES])
def test_the_probe_tells_the_curvature_of_the_divergence(task: str) -> None:
    """E (s' e)^2 / 2 is the divergence of a small error e, up to its size."""
    draws = 20_000
    vectors, patches = random(1, 4), random(1, 3, 4, seed=1)
    error, errors = 1e-3 * random(1, 4, seed=2), 1e-3 * random(1, 3, 4, seed=3)
    inputs = [vectors.expand(draws, -1).clone().requires_grad_()]
    inputs += [patches.expand(draws, -1, -1).clone().requires_grad_()] if task == FEATURES else []
    scalar = probe(Output(task, *inputs), torch.Generator().manual_seed(0))
    slopes = torch.autograd.grad(scalar, inputs)
    along = (slopes[0] * error).sum(dim=1)
    if task == FEATURES:
        along = along + (slopes[1] * errors).sum(dim=(1, 2))
    dense, moved = Output(task, vectors), Output(task, vectors + error)
    if task == FEATURES:
        dense, moved = Output(task, vectors, patches), Output(task, vectors + error, patches + errors)
    assert float(along.square().mean()) / 2 == pytest.approx(float(divergence(dense, moved)), rel=0.05)
