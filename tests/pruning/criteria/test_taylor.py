from __future__ import annotations

import weakref
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from analysis.outputs import divergence, output
from analysis.vit import ViT
from pruning.criteria.taylor import LossOptions, ablation, taylor
from pruning.cut.ratios import Ratios
from pruning.cut.selection import Scores
from tests.support import reference
from tests.support.models import TINY, VARIANTS, batches, random_images, random_vit, scaled_heads

CLASSIFIERS = {name: arch for name, arch in VARIANTS.items() if arch.num_classes}
STEP = 1e-4
RATIOS = {
    "qk": Ratios(qk=0.4),
    "v": Ratios(v=0.4),
    "mlp": Ratios(mlp=0.4),
    "heads": Ratios(heads=0.4),
    "embed": Ratios(embed=0.4),
    "everything": Ratios(qk=0.3, v=0.3, mlp=0.3, heads=0.4, embed=0.3),
}


def doubled(arch) -> tuple[ViT, dict[str, torch.Tensor], torch.Tensor]:
    """A model, its state and images in float64, so that differences of losses mean something."""
    model, images = random_vit(arch).double(), random_images(arch, count=2).double()
    return model, {name: value.detach() for name, value in model.state_dict().items()}, images


def part(scores: Scores, key: tuple[str, int, int, int]) -> float:
    name, block, head, channel = key
    if name == "embed":
        return float(scores.embed[channel])
    own = getattr(scores, name)[block]
    return float(own[head, channel] if own.ndim == 2 else own[channel])


def keys(arch, step: int) -> Iterator[tuple[str, int, int, int]]:
    """Every `step`-th part of each structure."""
    yield from (("embed", 0, 0, e) for e in range(0, arch.embed_dim, step))
    for index, widths in enumerate(arch.blocks):
        yield from (("heads", index, 0, head) for head in range(widths.heads))
        yield from (("mlp", index, 0, f) for f in range(0, widths.mlp, step))
        for name, width in (("qk", widths.qk), ("v", widths.v)):
            for flat in range(0, widths.heads * width, step):
                yield name, index, flat // width, flat % width


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_taylor_is_the_mean_absolute_slope_of_each_images_loss(name: str) -> None:
    """Twin: central differences of the loss of one image at a time, one gate at a time."""
    arch = CLASSIFIERS[name]
    model, state, images = doubled(arch)
    labels = [3, 8]
    scores = taylor(model, [(images, torch.tensor(labels))], LossOptions())

    def loss(image: int, gates: reference.Gates) -> float:
        return reference.cross_entropy(
            reference.gated_logits(state, arch, images[image], gates), labels[image]
        )

    for key in keys(arch, 5 if name == "plain" else 29):
        slopes = [(loss(i, {key: 1 + STEP}) - loss(i, {key: 1 - STEP})) / (2 * STEP) for i in range(2)]
        expected = sum(abs(slope) for slope in slopes) / 2
        assert part(scores, key) == pytest.approx(expected, rel=1e-4, abs=1e-7), key


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_ablation_is_the_rise_of_the_loss_without_a_head(name: str) -> None:
    arch = CLASSIFIERS[name]
    model, state, images = doubled(arch)
    labels = [3, 8]
    scores = ablation(
        model, list(zip(images.split(1), torch.tensor(labels).split(1), strict=True)), LossOptions()
    )

    def mean_loss(gates: reference.Gates) -> float:
        logits = [reference.gated_logits(state, arch, image, gates) for image in images]
        return sum(reference.cross_entropy(one, label) for one, label in zip(logits, labels, strict=True)) / 2

    dense = mean_loss({})
    for index, widths in enumerate(arch.blocks):
        for head in range(widths.heads):
            expected = mean_loss({("heads", index, 0, head): 0.0}) - dense
            assert float(scores.heads[index][head]) == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_it_also_scores_where_unread_tokens_are_left_out(tiny: ViT) -> None:
    """The shortcut of such a model's last block forms no queries that a gate could stand on."""
    less = ViT(replace(TINY, skip_unread=True)).eval()
    less.load_state_dict(tiny.state_dict())
    images = batches(random_images(TINY))
    for got, expected in zip(
        *(flat(taylor(model, images, LossOptions())) for model in (less, tiny)), strict=True
    ):
        torch.testing.assert_close(got, expected, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("criterion", [taylor, ablation])
def test_the_score_does_not_depend_on_the_batches(criterion, tiny: ViT) -> None:
    images = random_images(TINY, count=10)  # more than are worked on at once
    whole = criterion(tiny, batches(images, 10), LossOptions())
    for size in (3, 9):
        again = criterion(tiny, iter(batches(images, size)), LossOptions())
        for got, expected in zip(flat(again), flat(whole), strict=True):
            torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)


def flat(scores: Scores) -> tuple[torch.Tensor, ...]:
    return (*scores.qk, *scores.v, *scores.mlp, *scores.heads, scores.embed)


@pytest.mark.parametrize("criterion", [taylor, ablation])
def test_no_images_are_held(criterion, tiny: ViT) -> None:
    seen: list[weakref.ref[torch.Tensor]] = []

    def stream() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for number in range(6):
            assert all(old() is None for old in seen[:-1]), f"images are still held at batch {number}"
            images = random_images(TINY, count=2, seed=number)
            seen.append(weakref.ref(images))
            yield images, torch.tensor([1, 2])
            del images

    criterion(tiny, stream(), LossOptions())
    assert len(seen) == 6


@pytest.mark.parametrize("criterion", [taylor, ablation])
def test_the_model_may_be_in_use_meanwhile(criterion, tiny: ViT) -> None:
    """Neither mode nor hooks nor gradients reach the model that is scored, even half-way through."""
    tiny.train()
    tiny.head.weight.requires_grad_(False)
    wanted = [weight.requires_grad for weight in tiny.parameters()]

    def stream() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for batch in batches(random_images(TINY), 2):
            yield batch
            untouched()

    def untouched() -> None:
        assert all(module.training for module in tiny.modules())
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in tiny.modules())
        assert [weight.requires_grad for weight in tiny.parameters()] == wanted
        assert all(weight.grad is None for weight in tiny.parameters())

    with torch.no_grad():  # gradients are taken all the same
        scores = criterion(tiny, stream(), LossOptions())
    untouched()
    assert not any(part.requires_grad for part in flat(scores))
    tiny.eval()
    for got, expected in zip(
        flat(scores), flat(criterion(tiny, batches(random_images(TINY)), LossOptions())), strict=True
    ):
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("criterion", [taylor, ablation])
def test_without_images_it_is_refused(criterion, tiny: ViT) -> None:
    with pytest.raises(ValueError, match="the loss is measured on calibration images, got none"):
        criterion(tiny, [], LossOptions())


@torch.no_grad()
def test_ablation_of_features_is_how_far_they_move() -> None:
    model, images = random_vit(VARIANTS["no head"]), random_images(TINY)
    scores = ablation(model, batches(images), LossOptions())
    for block, head in ((0, 0), (0, 2), (1, 1)):
        other = scaled_heads(model, {(block, head): 0.0})
        wanted = divergence(output(model, images), output(other, images)).mean()
        assert float(scores.heads[block][head]) == pytest.approx(float(wanted), rel=1e-3)


def test_taylor_of_features_is_the_curvature_of_their_divergence() -> None:
    """Twin: the divergence of a gate that is a little closed, over the square of how far."""
    model, image = random_vit(VARIANTS["no head"]), random_images(TINY, count=1)
    scores = taylor(model, [(image.repeat(256, 1, 1, 1), torch.zeros(256).long())], LossOptions())
    whole = model.double()
    for block, head in ((0, 0), (0, 2), (1, 1)):
        other = scaled_heads(whole, {(block, head): 1 - 1e-3})
        with torch.no_grad():
            moved = divergence(output(whole, image.double()), output(other, image.double()))
        assert float(scores.heads[block][head]) == pytest.approx(float(moved) / 1e-6, rel=0.2)


def test_options_keep_their_range() -> None:
    with pytest.raises(ValueError, match="images must be a whole number from 1 to 4096, got 0"):
        LossOptions(images=0)
