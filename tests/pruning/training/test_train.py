"""The training loop does what the formulas say, and the same whoever interrupts or shares it."""

from __future__ import annotations

import copy
import math
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from analysis.data.batches import batches
from analysis.data.images import BadImageError
from analysis.data.open import open_data
from analysis.data.scenes import CLASSES
from analysis.measure.evaluate import evaluate
from analysis.models.preprocess import Preprocess
from analysis.vit import ViT
from pruning.progress import Cancelled
from pruning.projection.block_parts import output
from pruning.seeding import State, random_state, seeded, set_random_state
from pruning.training.augment import Mixing, augmentation, normalized
from pruning.training.batches import Order, feed
from pruning.training.checkpoint import CHECKPOINTS, load_checkpoint, save_checkpoint
from pruning.training.objective import Objective
from pruning.training.recipe import (
    Training,
    add_drop_paths,
    make_optimizer,
    make_schedule,
    precision_context,
    reading_workers,
    uses_bf16,
)
from pruning.training.train import train
from tests.support.models import ROOT, TINY, VARIANTS, on_variants, random_vit
from tests.support.training import LIVELY, PLAIN, PREPROCESS, Recorder, image_set

Weights = dict[str, Tensor]


def everything(folder: Path) -> tuple[Tensor, Tensor]:
    """All images and labels of the set as one batch."""
    (images, labels), *rest = batches(image_set(folder), PREPROCESS, 1000)
    assert not rest
    return images, labels


def slow_training(
    model: ViT, loss: Callable[[ViT], Tensor], options: Training, steps: int
) -> tuple[Weights, Weights]:
    """AdamW by its formulas with clipping, half a cosine and no warm-up: weights and their average."""
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    first = {name: torch.zeros_like(p) for name, p in weights.items()}
    second = {name: torch.zeros_like(p) for name, p in weights.items()}
    average: Weights = {}
    for step in range(steps):
        twin = ViT(model.arch)
        twin.load_state_dict(weights)
        grads = torch.autograd.grad(loss(twin), list(twin.parameters()))
        norm = math.sqrt(sum(float(g.square().sum()) for g in grads))
        rate = options.lr * (1 + math.cos(math.pi * (step + 1) / (steps + 1))) / 2
        for name, grad in zip(list(weights), grads, strict=True):
            p, g = weights[name], grad * min(1.0, options.clip / (norm + 1e-6))
            first[name] = 0.9 * first[name] + 0.1 * g
            second[name] = 0.999 * second[name] + 0.001 * g * g
            mean, spread = first[name] / (1 - 0.9 ** (step + 1)), second[name] / (1 - 0.999 ** (step + 1))
            matrix = name.endswith("weight") and p.ndim > 1
            decayed = p * (1 - rate * options.weight_decay * matrix)
            weights[name] = decayed - rate * mean / (spread.sqrt() + 1e-8)
        decay = min(options.ema, 1 - (1 + step) ** (-2 / 3))  # 0 in the first step
        average = {n: decay * average.get(n, p) + (1 - decay) * p for n, p in weights.items()}
    return weights, average


def assert_weights(model: ViT, weights: Weights, **tolerance: Any) -> None:
    got = {name: parameter.detach() for name, parameter in model.named_parameters()}
    assert got.keys() == weights.keys()
    for name in weights:
        torch.testing.assert_close(got[name], weights[name], msg=f"{name}: {{}}".format, **tolerance)


def without_key_bias(model: ViT, weights: Weights) -> Weights:
    """Softmax does not see the keys' bias: its gradient is rounding, which AdamW blows up to full steps."""
    weights = dict(weights)
    for index, block in enumerate(model.blocks):
        name, (q, k, _) = f"blocks.{index}.attn.qkv.bias", block.attn.qkv_rows
        if name in weights:
            weights[name] = weights[name].clone()
            weights[name][q : q + k] = model.get_parameter(name).detach()[q : q + k]
    return weights


@torch.no_grad()
def moved(a: ViT, b: ViT) -> float:
    """How far each parameter moved at least, in the element that moved most."""
    return min(float((x - y).abs().max()) for x, y in zip(a.parameters(), b.parameters(), strict=True))


def same(a: ViT, b: ViT) -> bool:
    return all(
        torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize("ema", [0.0, 0.3])
def test_averages_follow_the_formulas(ema: float, tiny: ViT, tmp_path: Path) -> None:
    _steps_follow_the_formulas(tiny, ema, tmp_path)


@on_variants(*(name for name, arch in VARIANTS.items() if arch.num_classes))
def test_steps_follow_the_formulas(variant: ViT, tmp_path: Path) -> None:
    _steps_follow_the_formulas(variant, 0.9, tmp_path)


def _steps_follow_the_formulas(variant: ViT, ema: float, tmp_path: Path) -> None:
    """Every step sees all images, so that their order does not matter."""
    images, labels = everything(tmp_path)
    options = replace(PLAIN, ema=ema, epochs=3)

    def loss(model: ViT) -> Tensor:
        return -model(images).log_softmax(-1)[torch.arange(len(labels)), labels].mean()

    weights, average = slow_training(variant, loss, options, 3)
    trained = train(variant, image_set(tmp_path), PREPROCESS, Objective(), options)
    expected = without_key_bias(trained, average if ema else weights)
    assert_weights(trained, expected, rtol=1e-3, atol=1e-4)
    assert moved(trained, variant) > 3e-3  # so that the tolerance says something
    assert not trained.training and trained.arch == variant.arch


def test_the_argument_is_untouched(tiny: ViT, tmp_path: Path) -> None:
    before = random_vit(TINY)
    streams = random_state()
    trained = train(tiny, image_set(tmp_path), PREPROCESS, Objective(), LIVELY)
    assert same(tiny, before) and not tiny.training and not same(tiny, trained)
    assert all(p.grad is None for p in tiny.parameters())
    assert (
        torch.equal(torch.get_rng_state(), streams["torch"]) and random_state()["python"] == streams["python"]
    )


def test_a_seed_decides(tiny: ViT, tmp_path: Path) -> None:
    images = image_set(tmp_path)
    runs = [train(tiny, images, PREPROCESS, Objective(), LIVELY, seed=seed) for seed in (0, 0, 1)]
    assert same(runs[0], runs[1]) and not same(runs[0], runs[2])


def test_curves(tiny: ViT, tmp_path: Path) -> None:
    images, monitor = image_set(tmp_path), Recorder()
    options = replace(LIVELY, epochs=3, test_every=2)
    trained = train(tiny, images, PREPROCESS, Objective(), options, test=images, monitor=monitor)
    assert [step for step, _ in monitor.curve("loss")] == [4, 8, 10, 12]
    top1 = evaluate(trained, batches(images, PREPROCESS)).top1
    assert monitor.curve("top1")[-1] == (12, pytest.approx(top1)) and len(monitor.curve("top1")) == 2
    assert monitor.shares == pytest.approx([step / 12 for step in range(13)])


def test_loss_is_the_mean_of_the_steps(tiny: ViT, tmp_path: Path) -> None:
    """With a learning rate of 0 all that differs between steps is their images."""
    images, monitor = image_set(tmp_path), Recorder()
    options = replace(PLAIN, batch=10, base_lr=0.0, lr=0.0, epochs=1)
    trained = train(tiny, images, PREPROCESS, Objective(), options, monitor=monitor)
    assert same(trained, tiny)
    x, y = everything(tmp_path)
    expected = nn.functional.cross_entropy(tiny(x), y).item()
    assert monitor.curve("loss") == [(4, pytest.approx(expected, rel=1e-5))]


def test_an_objective_is_asked_at_every_turn(tiny: ViT, tmp_path: Path) -> None:
    calls: list[tuple[str, int]] = []

    class Noted(Objective):
        def after_step(self, model: ViT, step: int) -> None:
            assert isinstance(model, ViT)
            calls.append(("step", step))

        def after_epoch(self, model: ViT, epoch: int) -> dict[str, float]:
            calls.append(("epoch", epoch))
            return {"residual": epoch / 2}

    monitor = Recorder()
    options = replace(PLAIN, epochs=2, batch=20, images=20)
    train(tiny, image_set(tmp_path), PREPROCESS, Noted(), options, monitor=monitor)
    assert calls == [("step", 0), ("epoch", 0), ("step", 1), ("epoch", 1)]
    assert monitor.curve("residual") == [(1, 0.0), (2, 0.5)]


# ---- settings


@pytest.mark.parametrize(("warmup", "steps", "least"), [(0.0, 7, 0.0), (0.25, 20, 0.1), (1.0, 4, 0.0)])
def test_schedule(tiny: ViT, warmup: float, steps: int, least: float) -> None:
    options = replace(PLAIN, warmup=warmup, lr=0.5, min_lr=least)
    optimizer = make_optimizer(tiny, options)
    schedule, risen = make_schedule(optimizer, options, steps), round(warmup * steps)
    for step in range(steps):
        schedule.step_update(step + 1)
        done = (step + 1 - risen) / (steps + 1 - risen)
        falling = least + (1 - least) * (1 + math.cos(math.pi * done)) / 2
        rising = (step + 1) / risen if step < risen else falling
        assert optimizer.param_groups[0]["lr"] == pytest.approx(0.5 * rising)


def test_the_learning_rate_grows_with_the_batch(tiny: ViT) -> None:
    """DeiT's rule: lr = base x batch / 512. A rate that is given is taken as it is."""
    for batch, lr, wanted in ((512, 0.0, 2.5e-4), (64, 0.0, 2.5e-4 / 8), (2048, 0.0, 1e-3), (64, 0.3, 0.3)):
        options = Training(batch=batch, lr=lr, base_lr=2.5e-4, warmup=0.0, min_lr=0.5)
        optimizer = make_optimizer(tiny, options)
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([wanted] * 8)
        make_schedule(optimizer, options, 10).step_update(10)
        last = 0.5 + 0.5 * (1 + math.cos(math.pi * 10 / 11)) / 2
        assert optimizer.param_groups[0]["lr"] == pytest.approx(last * wanted)


def test_drop_paths_skip_halves_of_blocks(tiny: ViT) -> None:
    """Of many copies of one image, each takes one of the ways through the last block, at the right rates."""
    model = copy.deepcopy(tiny).train()
    names = list(model.state_dict())
    add_drop_paths(model, 0.4)
    assert list(model.state_dict()) == names
    first, last, plain = model.blocks[0], model.blocks[-1], tiny.blocks[-1]
    assert first.attn and last.attn and last.mlp and plain.attn and plain.mlp
    x = torch.randn(1, tiny.arch.num_tokens, tiny.arch.embed_dim, generator=torch.Generator().manual_seed(0))
    many = x.expand(4000, -1, -1)
    with torch.no_grad(), seeded("ways"):
        attn, mlp = (output(half, x) for half in (last.attn, last.mlp))
        # the first block is never skipped
        assert torch.equal(output(first.attn, many[:3]), output(first.attn, many[:3]))
        for half, own in ((last.attn, output(plain.attn, x)), (last.mlp, plain.mlp(x))):
            out = output(half, many)
            skipped = (out == 0).flatten(1).all(1)
            assert abs(float(skipped.float().mean()) - 0.4) < 0.03
            torch.testing.assert_close(out[~skipped], (own / 0.6).expand(int((~skipped).sum()), -1, -1))
        model.eval()
        assert torch.equal(output(last.attn, x), output(plain.attn, x))
        assert torch.equal(last.mlp(x), plain.mlp(x))
    assert attn.shape == mlp.shape == x.shape


def test_drop_paths_leave_no_trace(tiny: ViT, tmp_path: Path) -> None:
    options = replace(PLAIN, drop_path=0.5, ema=0.9)
    trained = train(tiny, image_set(tmp_path), PREPROCESS, Objective(), options)
    without = train(tiny, image_set(tmp_path), PREPROCESS, Objective(), replace(options, drop_path=0.0))
    assert list(trained.state_dict()) == list(tiny.state_dict()) and not same(trained, without)
    assert not any(module._forward_hooks for each in (tiny, trained) for module in each.modules())


def test_groups(variant: ViT) -> None:
    options = replace(PLAIN, layer_decay=0.5, lr=1.0)
    optimizer = make_optimizer(variant, options)
    make_schedule(optimizer, options, 10**6).step_update(1)
    found = {
        id(p): (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for p in group["params"]
    }
    names = {id(p): name for name, p in variant.named_parameters()}
    assert found.keys() == names.keys()
    for key, name in names.items():
        layer = {"blocks.0": 1, "blocks.1": 2}.get(
            name[:8], 3 if name.startswith(("norm.", "fc_norm", "head")) else 0
        )
        matrix = name.endswith("weight") and variant.get_parameter(name).ndim > 1
        assert found[key] == (pytest.approx(0.5 ** (3 - layer), rel=1e-6), 0.05 * matrix), name


def test_precision_and_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert not uses_bf16("auto", cpu) and not uses_bf16("float32", gpu) and uses_bf16("bf16", gpu)
    for known, able in (({"avx512_bf16": True}, True), ({"amx_bf16": True}, True), ({"avx2": True}, False)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda known=known: known)
        if able:
            assert uses_bf16("bf16", cpu) and not uses_bf16("auto", cpu)
        else:
            with pytest.raises(ValueError, match=r"^precision bf16 needs a GPU or a CPU with AVX512_BF16"):
                uses_bf16("bf16", cpu)
    assert reading_workers(Training(), cpu) == 1 and 1 <= reading_workers(Training(), gpu) <= 8
    assert reading_workers(Training(workers=3), cpu) == 3


def test_bf16_on_a_cpu_learns_the_same_but_for_rounding(tiny: ViT) -> None:
    """Forwards and backwards, also where attention's own kernel is left out."""
    torch.manual_seed(0)
    images, labels = torch.randn(8, 3, *TINY.image_size), torch.arange(8) % TINY.num_classes
    gradients = []
    for bf16 in (False, True):
        model = copy.deepcopy(tiny).requires_grad_(True)
        with precision_context(bf16, torch.device("cpu")):
            loss = torch.nn.functional.cross_entropy(model(images).float(), labels)
            assert torch.backends.cuda.flash_sdp_enabled() != bf16
        loss.backward()
        assert torch.backends.cuda.flash_sdp_enabled()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    exact, rounded = gradients
    assert 0 < float((exact - rounded).norm() / exact.norm()) < 0.05


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mixup": 0.2, "batch": 9}, r"^with 1 processes batch must be a multiple of 2, got 9$"),
        (
            {"lr": 1.0, "clip": 0.0, "epochs": 30},
            r"^the loss is not finite after \d+ steps: choose a .* lr 1$",
        ),
    ],
)
def test_refused(changes: dict[str, float | str], message: str, tmp_path: Path) -> None:
    model = random_vit(TINY)
    if "lr" in changes:
        model.get_parameter("head.weight").data *= 1e38
    with pytest.raises(ValueError, match=message):
        train(model, image_set(tmp_path), PREPROCESS, Objective(), replace(PLAIN, **changes))  # type: ignore[arg-type]


def test_nothing_to_learn(tiny: ViT, tmp_path: Path) -> None:
    images = image_set(tmp_path)
    with pytest.raises(ValueError, match=r"^training needs at least 1 images, got 0$"):
        train(tiny, images.subset([]), PREPROCESS, Objective(), PLAIN)
    headless = random_vit(replace(TINY, num_classes=0))
    with pytest.raises(ValueError, match=r"^a model without a classifier cannot be trained"):
        train(headless, images, PREPROCESS, Objective(), PLAIN)


# ---- images in their order


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_order(processes: int) -> None:
    orders = [Order(100, 12, 7, 5, rank, processes) for rank in range(processes)]
    whole = list(Order(100, 12, 7, 5).epoch(3))
    assert len({i for batch in whole for i in batch}) == 84 and whole != list(Order(100, 12, 7, 5).epoch(4))
    for batch, shares in zip(whole, zip(*(order.epoch(3) for order in orders), strict=True), strict=True):
        assert sorted(i for share in shares for i in share) == sorted(batch)
        for share in shares:
            mirrored = [batch[11 - batch.index(i)] for i in share]
            assert len(share) == 12 // processes and mirrored == share[::-1]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("strength", ["light", "strong"])
def test_the_stream_goes_on_anywhere(workers: int, strength: str, tmp_path: Path) -> None:
    images, order = image_set(tmp_path), Order(40, 10, 4, seed=3)

    def read(start: tuple[int, int], workers: int) -> list[tuple[Tensor, Tensor]]:
        return list(feed(images, PREPROCESS, order, strength, start=start, epochs=2, workers=workers))

    whole, tail = read((0, 0), 0), read((0, 3), workers)
    assert len(whole) == 8 and len(tail) == 5
    for (a, b), (c, d) in zip(whole[3:], tail, strict=True):
        assert torch.equal(a, c) and torch.equal(b, d)
    plain = {images.label(i): PREPROCESS(images.image(i)) for i in range(40)}
    assert not any(torch.equal(a, plain[int(b)]) for x, y in whole for a, b in zip(x, y, strict=True))


def test_large_images_are_cropped(tmp_path: Path) -> None:
    images = image_set(tmp_path)
    order, seen = Order(40, 40, 1, 0), Preprocess((72, 80))
    ((batch, _),) = feed(images, seen, order, "auto", start=(0, 0), epochs=1, workers=0)
    assert batch.shape == (40, 3, 72, 80) and bool(batch.isfinite().all())


def test_small_images_are_shifted_whatever_the_model_makes_of_them(tmp_path: Path) -> None:
    """A shift keeps the scale: in an image of columns 0, 8, 16, ... the slope stays the same."""
    pixels = np.broadcast_to(8 * np.arange(32, dtype=np.uint8)[None, :, None], (32, 32, 3))
    Image.fromarray(np.ascontiguousarray(pixels)).save(_folder(tmp_path) / "ramp.png")
    preprocess = Preprocess((96, 96), mean=(0.0,) * 3, std=(1.0,) * 3)
    images = open_data(tmp_path, preprocess, 1)
    for epoch in range(5):
        (x, _), *_ = feed(
            images, preprocess, Order(1, 1, 1, epoch), "light", start=(0, 0), epochs=1, workers=0
        )
        slope = 255 * (x[0, 0, 48, 1:] - x[0, 0, 48, :-1]).abs()
        assert abs(float(slope[16:80].mean()) - 8 / 3) < 0.1  # away from mirrored edges


def _folder(path: Path) -> Path:
    (path / "0").mkdir(exist_ok=True)
    return path / "0"


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("size", [(24, 40), (7, 64), (96, 96)])
def test_shifts_are_random_crops_with_mirrored_margins(size: tuple[int, int], mirror: bool) -> None:
    """Each comes from a place within the margins of the larger image that torchvision builds."""
    from torchvision.transforms import functional

    small = (min(size[0], 64), min(size[1], 64))
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*small, 3), dtype=np.uint8))
    rows, columns = size[0] // 8, size[1] // 8
    resized = functional.resize(image, list(size), functional.InterpolationMode.BICUBIC)
    padded = functional.pil_to_tensor(
        functional.pad(resized, [columns, rows, columns, rows], padding_mode="reflect")
    )
    change, found = augmentation(Preprocess(size), "light", mirror=mirror), set()
    places = {
        (y, x, flipped): (crop.flip(-1) if flipped else crop).numpy().tobytes()
        for y in range(2 * rows + 1)
        for x in range(2 * columns + 1)
        for crop in [padded[:, y : y + size[0], x : x + size[1]]]
        for flipped in (False, True)
    }
    known = {content: place for place, content in places.items()}
    for number in range(60):
        with seeded("shift", number, numpy=False):
            found.add(known[change(image).contiguous().numpy().tobytes()])
    assert {flipped for _, _, flipped in found} == ({False, True} if mirror else {False})
    assert len(found) > 10 and max(x for _, x, _ in found) > columns > min(x for _, x, _ in found)


def test_bytes_are_normalized_as_torchvision_does() -> None:
    from torchvision import transforms

    values = torch.randint(0, 256, (4, 3, 5, 6), dtype=torch.uint8)
    seen = Preprocess((5, 6), (0.4, 0.5, 0.6), (0.2, 0.3, 0.25))
    expected = transforms.Normalize(seen.mean, seen.std)(values.float() / 255)
    torch.testing.assert_close(normalized(values, seen), expected, atol=1e-6, rtol=1e-5)
    assert normalized(expected, seen) is expected


def test_scenes_stay_as_they_are() -> None:
    seen = Preprocess((64, 64), labels=CLASSES)
    scenes = open_data("demo", seen, 10, "train")
    order = Order(len(scenes), 2, 1, 0)
    ((batch, labels),) = feed(scenes, seen, order, "auto", start=(0, 0), epochs=1, workers=0)
    first, second = next(order.epoch(0))
    assert torch.equal(batch[0], seen(scenes.image(first)))
    assert labels.tolist() == [scenes.label(first), scenes.label(second)]


@pytest.mark.parametrize("workers", [0, 1])
def test_bad_image(tiny: ViT, workers: int, tmp_path: Path) -> None:
    images = image_set(tmp_path)
    (tmp_path / "images" / "3" / "1.png").write_bytes(b"no image")
    with pytest.raises(BadImageError, match=r"^3/1.png is not an image"):
        train(tiny, images, PREPROCESS, Objective(), replace(LIVELY, workers=workers))


def test_strong_changes_keep_a_bit_of_each_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the highest level timm posterizes to no bit at all, which Pillow refuses."""
    from timm.data import auto_augment

    change: Any = augmentation(PREPROCESS, "strong", mirror=False)
    (drawn,) = [step for step in change.transforms if isinstance(step, auto_augment.RandAugment)]
    (one,) = [op for op in drawn.ops if op.name == "PosterizeIncreasing"]
    picture = Image.new("RGB", (8, 8), (200, 100, 50))
    for level in (0, 3, 9, 10):
        one.prob, one.magnitude, one.magnitude_std = 1.0, level, 0
        assert one(picture).getpixel((0, 0)) == tuple(
            value & ~(2 ** (8 - max(4 - int(level / 10 * 4), 1)) - 1) for value in (200, 100, 50)
        )


def test_mixing_by_its_formula() -> None:
    images, labels = torch.randn(6, 3, 8, 8), torch.tensor([0, 1, 2, 3, 4, 4])
    for step in range(20):
        mixed, targets = Mixing(0.8, 0.0, 0.1, 5, seed=1)(images.clone(), labels, step)
        with seeded("mixing", 1, step):
            np.random.rand()
            share = float(np.random.beta(0.8, 0.8))
        smooth = nn.functional.one_hot(labels, 5) * 0.9 + 0.1 / 5
        torch.testing.assert_close(mixed, share * images + (1 - share) * images.flip(0))
        torch.testing.assert_close(targets, share * smooth + (1 - share) * smooth.flip(0))
        _, cut = Mixing(0.0, 1.0, 0.1, 5, seed=1)(images.clone(), labels, step)
        torch.testing.assert_close(cut.sum(1), torch.ones(6))


def test_processes_mix_alike() -> None:
    images, labels = torch.randn(12, 3, 8, 8), torch.arange(12) % 5
    mixing = Mixing(0.8, 1.0, 0.0, 5, seed=2)
    for step in range(8):
        whole, targets = mixing(images.clone(), labels, step)
        for rank in range(3):
            rows = Order(12, 12, 1, 0, rank, 3)._share()
            part, soft = mixing(images[rows], labels[rows], step)
            torch.testing.assert_close((part, soft), (whole[rows], targets[rows]))


def test_targets_without_blending() -> None:
    labels = torch.tensor([2, 0])
    assert Mixing(0.0, 0.0, 0.0, 3, 0)(torch.zeros(2, 1, 1, 1), labels, 0)[1] is labels
    _, smooth = Mixing(0.0, 0.0, 0.3, 3, 0)(torch.zeros(2, 1, 1, 1), labels, 0)
    torch.testing.assert_close(smooth, torch.tensor([[0.1, 0.1, 0.8], [0.8, 0.1, 0.1]]))


# ---- checkpoints


@pytest.mark.parametrize("cancel_at", [1, 4, 5, 7, 13])
def test_cancelled_and_resumed(cancel_at: int, tiny: ViT, tmp_path: Path) -> None:
    """Whenever the end is asked for, the same call goes on to the same weights, to the last bit."""
    images = image_set(tmp_path)
    unbroken = train(tiny, images, PREPROCESS, Counting(), LIVELY)
    with pytest.raises(Cancelled):
        train(tiny, images, PREPROCESS, Counting(), LIVELY, monitor=Recorder(tmp_path, cancel_at))
    monitor, counting = Recorder(tmp_path), Counting()
    trained = train(tiny, images, PREPROCESS, counting, replace(LIVELY, workers=1), monitor=monitor)
    assert same(trained, unbroken) and counting.steps == 12
    assert monitor.notes == [f"going on after {cancel_at - 1} steps"]
    assert len(monitor.shares) == 13 - (cancel_at - 1)


@pytest.mark.parametrize("cancel_at", [2, 3, 4])
def test_a_report_after_a_resumption_tells_the_steps_before_it(
    cancel_at: int, tiny: ViT, tmp_path: Path
) -> None:
    """A point of a curve is a mean since the last one, wherever the training was left off."""
    images, whole, broken = image_set(tmp_path), Recorder(), Recorder(tmp_path, cancel_at)
    train(tiny, images, PREPROCESS, Objective(), LIVELY, monitor=whole)
    with pytest.raises(Cancelled):
        train(tiny, images, PREPROCESS, Objective(), LIVELY, monitor=broken)
    assert not broken.figures
    resumed = Recorder(tmp_path)
    train(tiny, images, PREPROCESS, Objective(), LIVELY, monitor=resumed)
    assert resumed.curve("loss") == whole.curve("loss")


class Counting(Objective):
    """Draws from the global stream and keeps state, as an objective may."""

    steps = 0

    def loss(self, model: nn.Module, images: Tensor, targets: Tensor) -> tuple[Tensor, dict[str, float]]:
        loss, _ = super().loss(model, images + 0.1 * torch.randn(1).to(images.device), targets)
        return loss, {}

    def after_step(self, model: ViT, step: int) -> None:
        self.steps += 1

    def state_dict(self) -> dict[str, int]:
        return {"steps": self.steps}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.steps = state["steps"]


def test_the_test_is_not_forgotten(tiny: ViT, tmp_path: Path) -> None:
    """An end between an epoch and its test leaves the test to whoever goes on."""
    images = image_set(tmp_path)
    options = replace(LIVELY, epochs=1)

    class Ending(Recorder):
        def metrics(self, step: int, **values: float) -> None:
            if "top1" in values:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tiny, images, PREPROCESS, Objective(), options, test=images, monitor=Ending(tmp_path))
    monitor = Recorder(tmp_path)
    train(tiny, images, PREPROCESS, Objective(), options, test=images, monitor=monitor)
    assert [step for step, _ in monitor.curve("top1")] == [4] and not monitor.curve("loss")


@pytest.mark.parametrize("left_off", ["after_epoch", "score"])
def test_what_an_epoch_owes_is_told_as_the_training_s(left_off: str, tiny: ViT, tmp_path: Path) -> None:
    """Whatever a run did before it went on, such as measuring a model, these figures are the training's."""

    def killed(*args: object) -> NoReturn:
        raise KeyboardInterrupt

    class Placed(Recorder):
        what = "Measuring"

        def __call__(self, what: str, share: float) -> None:
            self.what = what
            super().__call__(what, share)

        def metrics(self, step: int, **values: float) -> None:
            super().metrics(step, **{f"{self.what}: {name}": value for name, value in values.items()})

    images, ending = image_set(tmp_path), Objective()
    options = replace(LIVELY, epochs=1, checkpoint_seconds=0)
    setattr(ending, left_off, killed)
    with pytest.raises(KeyboardInterrupt):
        train(tiny, images, PREPROCESS, ending, options, test=images, monitor=Recorder(tmp_path))
    monitor = Placed(tmp_path)
    train(tiny, images, PREPROCESS, Objective(), options, test=images, monitor=monitor, what="Learning")
    assert [list(values) for _, values in monitor.figures] == [["Learning: top1"]]


def test_checkpoints_are_never_mixed_up(tiny: ViT, tmp_path: Path) -> None:
    images = image_set(tmp_path)
    options = replace(PLAIN, epochs=1)
    train(tiny, images, PREPROCESS, Objective(), options, monitor=Recorder(tmp_path))
    others = [
        (tiny, images, replace(options, lr=1e-4), 0),
        (random_vit(replace(TINY, registers=1)), images, options, 0),
        (tiny, images.subset(range(39)), options, 0),
        (tiny, images, options, 1),
    ]
    for model, part, changed, seed in others:
        monitor = Recorder(tmp_path)
        train(model, part, PREPROCESS, Objective(), changed, seed=seed, monitor=monitor)
        assert not monitor.notes
    assert len(list((tmp_path / "checkpoint").iterdir())) == 5
    monitor = Recorder(tmp_path)
    train(tiny, images, PREPROCESS, Objective(), replace(options, workers=1), monitor=monitor)
    assert monitor.notes == ["going on after 1 steps"]


def test_a_full_disk_stops_no_training(tiny: ViT, tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    images = image_set(tmp_path)
    before, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    monitor = Recorder(tmp_path)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, hard))
        trained = train(tiny, images, PREPROCESS, Objective(), LIVELY, monitor=monitor)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (before, hard))
    assert same(trained, train(tiny, images, PREPROCESS, Objective(), LIVELY))
    assert len(monitor.notes) == 3 and list((tmp_path / "checkpoint").iterdir()) == []
    assert monitor.notes[0].endswith("training goes on, the checkpoint before it stays")


def test_checkpoint_is_whole_or_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "deep" / "a.pt"
    assert load_checkpoint(file) is None
    save_checkpoint(file, {"a": torch.arange(3), "b": [1, "x"]})

    def torn(state: object, stream: object) -> None:
        stream.write(b"half")  # type: ignore[attr-defined]
        raise RuntimeError("no space")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", torn)
        with pytest.raises(OSError, match=r"^the checkpoint a.pt could not be written: no space$"):
            save_checkpoint(file, {"a": 1})
    assert [path.name for path in file.parent.iterdir()] == ["a.pt"]
    state = load_checkpoint(file)
    assert state is not None and torch.equal(state["a"], torch.arange(3)) and state["b"] == [1, "x"]


def test_a_checkpoint_is_written_over_the_one_before_the_last(tmp_path: Path) -> None:
    """Two files take turns, so that none needs new room, and a shorter one leaves nothing behind."""
    file, places = tmp_path / "a.pt", []
    for number, size in enumerate((3000, 3000, 3000, 10, 3000)):
        save_checkpoint(file, {"a": torch.full((size,), number)})
        places.append(file.stat().st_ino)
        state = load_checkpoint(file)
        assert state is not None and torch.equal(state["a"], torch.full((size,), number))
        assert file.stat().st_nlink == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.pt", "a.spare"]
    assert len(set(places)) == 2 and all(a != b for a, b in pairwise(places))


@pytest.mark.parametrize("at", ["link", "replace"])
def test_killed_while_two_checkpoints_change_places(at: str, tmp_path: Path, monkeypatch) -> None:
    """Whatever moment the end comes at, a whole file lies there and the next one can be written."""
    file = tmp_path / "a.pt"
    for number in range(2):
        save_checkpoint(file, {"a": number})
    for call in range(2):
        with monkeypatch.context() as patch:
            patch.setattr(*_ending_after(call, at))
            with pytest.raises(KeyboardInterrupt):
                save_checkpoint(file, {"a": 2})
                save_checkpoint(file, {"a": 2})
        assert load_checkpoint(file) in ({"a": 1}, {"a": 2})
        save_checkpoint(file, {"a": 1})
        assert load_checkpoint(file) == {"a": 1}
        save_checkpoint(file, {"a": 1})
        assert load_checkpoint(file) == {"a": 1} and file.stat().st_nlink == 1


def _ending_after(call: int, at: str) -> tuple[object, str, Callable[..., object]]:
    """What to replace so that the process ends behind the call with this number."""
    place: object = os if at == "link" else Path
    given, calls = getattr(place, at), []

    def ending(*arguments: object) -> object:
        given(*arguments)
        calls.append(arguments)
        if len(calls) > call:
            raise KeyboardInterrupt
        return None

    return place, at, ending


@pytest.mark.parametrize("stop", ["loss", "gap", "top1"])
def test_no_step_is_lost_where_the_curves_cannot_be_written(stop: str, tiny: ViT, tmp_path: Path) -> None:
    """A disk that is too full for a line still takes a checkpoint, in the place of an older one."""

    class Full(Recorder):
        def metrics(self, step: int, **values: float) -> None:
            if step == 8 and stop in values:
                raise OSError("No space left on device")

    class Gap(Counting):
        def after_epoch(self, model: ViT, epoch: int) -> dict[str, float]:
            return {"gap": 1.0}

    images, again = image_set(tmp_path), Recorder(tmp_path)
    unbroken = train(tiny, images, PREPROCESS, Gap(), LIVELY)
    with pytest.raises(OSError, match="No space"):
        train(tiny, images, PREPROCESS, Gap(), LIVELY, test=images, monitor=Full(tmp_path))
    trained = train(tiny, images, PREPROCESS, Gap(), LIVELY, test=images, monitor=again)
    assert again.notes == ["going on after 8 steps"]
    assert [step for step, _ in again.curve("top1")] == [8, 12]  # the owed one, and the last
    assert same(trained, unbroken)


@pytest.mark.parametrize("damage", ["cut", "empty", "code"])
def test_damaged_checkpoint(damage: str, tmp_path: Path) -> None:
    file = tmp_path / "a.pt"
    save_checkpoint(file, {"a": torch.arange(300)})
    if damage == "code":
        torch.save({"a": os.system}, file)
    else:
        file.write_bytes(file.read_bytes()[: 500 if damage == "cut" else 0])
    with pytest.raises(ValueError, match=r"a.pt is damaged: remove it to begin this training anew$"):
        load_checkpoint(file)


def _other_forms(state: State) -> dict[str, Callable[[], object]]:
    """Ways of changing a checkpoint to what no training has written."""
    model, groups = state["model"], state["optimizer"]["param_groups"]
    moments = next(iter(state["optimizer"]["state"].values()))
    first = next(iter(model))
    return {
        "no model": lambda: state.pop("model"),
        "another shape": lambda: model.update({first: torch.zeros(3)}),
        "no tensor": lambda: model.update({first: [1.0]}),
        "without values": lambda: model.update({first: model[first].to("meta")}),
        "sparse": lambda: model.update({first: model[first].to_sparse()}),
        "a list of moments": lambda: state["optimizer"].update(state=[1, 2]),
        "no moments": lambda: state["optimizer"].update(state={}),
        "moments of another shape": lambda: moments.update(exp_avg=torch.zeros(2, 7)),
        "a rate that is text": lambda: groups[0].update(lr="fast"),
        "groups that are none": lambda: state["optimizer"].update(param_groups={"lr": 1}),
        "an epoch too many": lambda: state.update(epoch=99),
        "a step below none": lambda: state.update(step=-1),
        "a step that is text": lambda: state.update(step="3"),
        "no random state": lambda: state.update(random={"python": 1}),
        "random state of another form": lambda: state["random"].update(python=[1, 2]),
        "text": lambda: state.update(untested="no"),
        "figures that are text": lambda: state.update(figures=[{"loss": "low"}]),
    }


@pytest.mark.parametrize(
    "way", _other_forms({"model": {"a": 0}, "optimizer": {"param_groups": [], "state": {0: {}}}})
)
def test_a_checkpoint_of_another_form(way: str, tiny: ViT, tmp_path: Path) -> None:
    images = image_set(tmp_path)
    with pytest.raises(Cancelled):
        train(tiny, images, PREPROCESS, Objective(), LIVELY, monitor=Recorder(tmp_path, cancel_at=3))
    (file,) = (tmp_path / CHECKPOINTS).glob("*.pt")
    state = load_checkpoint(file)
    assert state is not None
    _other_forms(state)[way]()
    torch.save(state, file)
    with pytest.raises(ValueError, match=r"\.pt is damaged: remove it to begin this training anew$"):
        train(tiny, images, PREPROCESS, Objective(), LIVELY, monitor=Recorder(tmp_path))


def test_random_streams_go_on(tmp_path: Path) -> None:
    import random

    def draw() -> tuple[float, float, float, float]:
        return random.gauss(), float(np.random.randn()), float(np.random.rand()), float(torch.rand(1))

    draw()
    save_checkpoint(tmp_path / "a.pt", random_state())
    expected = draw()
    state = load_checkpoint(tmp_path / "a.pt")
    assert state is not None
    set_random_state(state)
    assert draw() == expected
    with seeded("a", 1):
        inside = draw()
    set_random_state(state)
    with seeded("a", 1):
        assert draw() == inside != expected
    assert draw() == expected


def test_numpy_may_be_left_out() -> None:
    def draw() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    with seeded("a", 1):
        both = draw()
    np.random.seed(5)
    mine = float(np.random.rand())
    np.random.seed(5)
    before = random.getstate(), torch.get_rng_state()
    with seeded("a", 1, numpy=False):
        got = draw()
    assert (got[0], got[2]) == (both[0], both[2]) and got[1] == mine
    assert random.getstate() == before[0] and torch.equal(torch.get_rng_state(), before[1])


# ---- other processes

SCRIPT = """
import os, signal, sys
from pathlib import Path
import torch
sys.path.insert(0, {root!r})
torch.set_num_threads({threads})
from safetensors.torch import save_file
from analysis.data.open import open_data
from pruning.training.objective import Objective
from pruning.training.train import train
from tests.support.models import TINY, random_vit
from tests.support.training import LIVELY, PLAIN, PREPROCESS, Recorder
from dataclasses import replace
folder, end = Path({folder!r}), int(sys.argv[1])

class Killing(Recorder):
    def __call__(self, what, share):
        super().__call__(what, share)
        if len(self.shares) == end:
            os.kill(os.getpid(), signal.SIGKILL)

images = open_data(folder / "images", PREPROCESS, 10)
options = replace(LIVELY, batch=20, images=40, epochs=4, checkpoint_seconds=0)
monitor = Killing(folder if end >= 0 else None)
trained = train(random_vit(TINY), images, PREPROCESS, Objective(), options, test=images, monitor=monitor)
if not int(os.environ.get("RANK", "0")):
    save_file(trained.state_dict(), folder / "trained.safetensors")
"""


def _script(folder: Path) -> Path:
    file = folder / "script.py"
    file.write_text(SCRIPT.format(root=str(ROOT), threads=torch.get_num_threads(), folder=str(folder)))
    return file


def _unbroken(folder: Path) -> ViT:
    options = replace(LIVELY, batch=20, images=40, epochs=4)
    return train(random_vit(TINY), image_set(folder), PREPROCESS, Objective(), options)


def test_killed_and_resumed(tmp_path: Path) -> None:
    """kill -9 in the middle of an epoch; the same command goes on to the same weights, bit for bit."""
    from safetensors.torch import load_file

    unbroken, script = _unbroken(tmp_path), _script(tmp_path)
    killed = subprocess.run([sys.executable, str(script), "4"], capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert {path.suffix for path in (tmp_path / "checkpoint").iterdir()} == {".pt", ".spare"}
    resumed = subprocess.run([sys.executable, str(script), "0"], capture_output=True, text=True, check=False)
    assert resumed.returncode == 0, resumed.stderr
    assert_weights(unbroken, load_file(tmp_path / "trained.safetensors"), rtol=0, atol=0)


def test_two_processes(tmp_path: Path) -> None:
    """The same images in every step, half of them each: the same weights but for rounding."""
    from safetensors.torch import load_file

    one = _unbroken(tmp_path)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "1", "OMP_NUM_THREADS": "1"}
    command = [*launch, str(_script(tmp_path)), "-1"]
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert ended.returncode == 0, ended.stderr
    two = load_file(tmp_path / "trained.safetensors")
    assert_weights(one, without_key_bias(one, two), rtol=0, atol=2e-5)
    assert moved(one, random_vit(TINY)) > 1e-3  # so that the tolerance says something
