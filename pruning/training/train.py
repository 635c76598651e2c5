"""The one way to train: Hugging Face Accelerate's, with timm's optimiser, schedule, mixup and averaging.

The same code runs in one process, in several (`accelerate launch`, `torchrun`) and on GPUs. What is
learned is an `Objective`; what it may cost is a `Training`. A training whose monitor has a folder keeps
checkpoints there and goes on from them, to the same weights as an unbroken run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING

import torch

from analysis.data import ImageSet, batches
from analysis.models import Preprocess
from analysis.setup import keep_freed_memory
from analysis.vit import Architecture, ViT
from pruning.progress import Monitor
from pruning.seeding import fingerprint, seeded
from pruning.training.augment import Mixing
from pruning.training.batches import Order, feed
from pruning.training.loop import Loop
from pruning.training.objective import Objective
from pruning.training.recipe import Training, batch_size, reading_workers

if TYPE_CHECKING:
    from accelerate import Accelerator

TRAINING = "Training"

# What may change between a training and its resumption without changing what is learned.
_IRRELEVANT = ("workers", "checkpoint_seconds", "test_every")


def train(
    model: ViT,
    images: ImageSet,
    preprocess: Preprocess,
    objective: Objective,
    options: Training,
    *,
    seed: int = 0,
    test: ImageSet | None = None,
    monitor: Monitor = Monitor(),
    what: str = TRAINING,
    known: Mapping[str, float] | None = None,
) -> ViT:
    """Train a copy of a model; returns it in evaluation mode on the CPU, averaged over steps if `ema` is on.

    In several processes each sees its share of every batch, all return the same weights, and only
    the first tells its monitor anything. Checkpoints lie in `monitor.folder`/checkpoint, one file for
    each training, and the same call goes on from where its file ends. Curves: `loss`, `lr` and what
    the objective reports every few steps, its score (`top1`) on `test` after an epoch. `what` names them,
    as two trainings of one run have steps of their own; `known` are figures of step 0.

    Raises:
        ValueError: settings, images or processes that do not fit, or a loss that is not finite.
        Cancelled: the monitor asked for an end; a checkpoint of this moment has been written.
    """
    from accelerate import Accelerator

    objective.require_model(model)
    keep_freed_memory()
    # Its own mixed precision is fixed for the whole life of a process; ours is set by each training.
    accelerator = Accelerator(mixed_precision="no")
    with seeded("train", seed):
        size = batch_size(options, len(images), accelerator.num_processes)
        steps = min(options.images or len(images), len(images)) // size or 1
        name = fingerprint(
            {k: v for k, v in asdict(options).items() if k not in _IRRELEVANT},
            (model.arch, preprocess, size, seed, objective.identity()),
            [images.item_name(i) for i in range(len(images))],
        )
        loop = Loop(accelerator, model, objective, options, steps, monitor, name, what)
        loop.resume()
        order = Order(len(images), size, steps, seed, accelerator.process_index, accelerator.num_processes)
        stream = feed(
            images,
            preprocess,
            order,
            options.augment,
            start=(loop.epoch, loop.step),
            epochs=options.epochs,
            workers=reading_workers(options, accelerator.device),
            device=accelerator.device,
        )
        classes = model.arch.num_classes or len(images.classes)
        mixing = Mixing(options.mixup, options.cutmix, options.smoothing, classes, seed)
        loop.go(
            stream,
            mixing,
            lambda: _score(accelerator, objective, loop.result(), test, preprocess, size),
            known,
        )
        accelerator.free_memory()
        return _copied(loop.result(), model.arch)


def _score(
    accelerator: Accelerator,
    objective: Objective,
    model: ViT,
    test: ImageSet | None,
    preprocess: Preprocess,
    size: int,
) -> float | None:
    """The objective's score on the test images, each process measuring its share."""
    if test is None:
        return None
    share = test.subset(range(accelerator.process_index, len(test), accelerator.num_processes))
    total, device, training = 0.0, accelerator.device, model.training
    with torch.inference_mode():
        for x, y in batches(share, preprocess, size) if len(share) else ():
            total += float(objective.score(model.eval(), x.to(device), y.to(device)).sum())
    model.train(training)
    counted = accelerator.reduce(torch.tensor(total, device=device), "sum")
    return float(counted) / len(test)


def _copied(model: ViT, arch: Architecture) -> ViT:
    """The same model anew, on the CPU: nothing compiled or hooked comes along."""
    new = ViT(arch)
    new.load_state_dict(model.state_dict())
    return new.eval()
