"""The one training loop: Hugging Face Accelerate's, with timm's optimiser, schedule, mixup and averaging.

The same code runs in one process, in several (`accelerate launch`, `torchrun`) and on GPUs. What is
learned is an `Objective`; what it may cost is a `Training`. A training whose monitor has a folder keeps
checkpoints there and goes on from them, to the same weights as an unbroken run.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from analysis.data import ImageSet, batches
from analysis.evaluate import evaluate
from analysis.preprocess import Preprocess
from analysis.vit import Architecture, ViT
from pruning.augment import Mixing
from pruning.checkpoint import (
    State,
    fingerprint,
    load_checkpoint,
    random_state,
    save_checkpoint,
    seeded,
    set_random_state,
)
from pruning.feed import Order, feed
from pruning.monitor import Cancelled, Monitor
from pruning.recipe import (
    Training,
    batch_size,
    make_average,
    make_optimizer,
    make_schedule,
    reading_workers,
    uses_bf16,
)

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["Objective", "Training", "bare", "cross_entropy", "train"]

REPORT_EVERY = 10  # steps between two points of a curve


class Objective:
    """What a training minimises, with whatever state that needs; here the cross-entropy.

    A subclass may override any method. In `loss` the model is what to call: in several processes
    it wraps the ViT, and only calling it shares the gradients; `bare` is the ViT inside.
    """

    def identity(self) -> object:
        """What tells this objective from others, as values with a `repr`: checkpoints belong to one."""
        return type(self).__qualname__

    def loss(
        self, model: nn.Module, images: Float[Tensor, "B C Y X"], targets: Shaped[Tensor, "B *classes"]
    ) -> tuple[Tensor, Mapping[str, float | Tensor]]:
        """The loss of one step, a mean over images, and figures to report with it.

        Targets are labels, B whole numbers, or B x classes soft labels after mixup or smoothing.
        """
        return cross_entropy(model(images), targets), {}

    def after_step(self, model: ViT, step: int) -> None:
        """After the optimiser's step number `step`, counted from 0 over all epochs."""

    def after_epoch(self, model: ViT, epoch: int) -> Mapping[str, float]:
        """After epoch number `epoch`, counted from 0; returns figures to report."""
        return {}

    def state_dict(self) -> State:
        """What a checkpoint must hold: tensors, numbers, strings and lists, tuples, dicts of them."""
        return {}

    def load_state_dict(self, state: State) -> None:
        """Take up the state of a checkpoint; its tensors are in main memory."""


def cross_entropy(
    logits: Float[Tensor, "B classes"], targets: Shaped[Tensor, "B *classes"]
) -> Float[Tensor, ""]:
    """Mean cross-entropy against labels or soft labels."""
    from timm.loss import SoftTargetCrossEntropy

    if targets.ndim == 1:
        return F.cross_entropy(logits, targets)
    return SoftTargetCrossEntropy()(logits, targets)


def bare(model: nn.Module) -> ViT:
    """The ViT inside whatever wraps it."""
    wrapped = isinstance(model, nn.parallel.DistributedDataParallel)
    return cast(ViT, model.module if wrapped else model)


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
) -> ViT:
    """Train a copy of a model; returns it in evaluation mode on the CPU, averaged over steps if `ema` is on.

    In several processes each sees its share of every batch, all return the same weights, and only
    the first tells its monitor anything. Checkpoints lie in `monitor.folder`/checkpoint, one file for
    each training, and the same call goes on from where its file ends. Curves: `loss`, `lr` and what
    the objective reports every few steps, `top1` on `test` after an epoch.

    Raises:
        ValueError: settings, images or processes that do not fit, or a loss that is not finite.
        Cancelled: the monitor asked for an end; a checkpoint of this moment has been written.
    """
    from accelerate import Accelerator

    if not model.arch.num_classes:
        raise ValueError("a model without a classifier cannot be trained to classify: load one with classes")
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
        run = _Run(accelerator, model, objective, options, steps, monitor, name)
        run.resume()
        order = Order(len(images), size, steps, seed, accelerator.process_index, accelerator.num_processes)
        stream = feed(
            images,
            preprocess,
            order,
            options.augment,
            start=(run.epoch, run.step),
            epochs=options.epochs,
            workers=reading_workers(options, accelerator.device),
            pin=accelerator.device.type == "cuda",
        )
        mixing = Mixing(options.mixup, options.cutmix, options.smoothing, model.arch.num_classes, seed)
        run.go(stream, mixing, lambda: _top1(accelerator, run.result(), test, preprocess, size))
        accelerator.free_memory()
        return _copied(run.result(), model.arch)


# What may change between a training and its resumption without changing what is learned.
_IRRELEVANT = ("workers", "checkpoint_seconds", "test_every")


class _Run:
    """One training: what a checkpoint holds, and the loop around it. `epoch` and `step` come next."""

    def __init__(
        self,
        accelerator: Accelerator,
        model: ViT,
        objective: Objective,
        options: Training,
        steps: int,
        monitor: Monitor,
        name: str,
    ) -> None:
        self.accelerator, self.objective, self.options, self.steps = accelerator, objective, options, steps
        self.monitor = monitor if accelerator.is_main_process else Monitor()
        self.file = self.monitor.folder / "checkpoint" / f"{name}.pt" if self.monitor.folder else None
        self.bf16 = uses_bf16(options.precision, accelerator.device)
        self.model = copy.deepcopy(model).train().requires_grad_(True).to(accelerator.device)
        self.optimizer = make_optimizer(self.model, options)
        self.schedule = make_schedule(self.optimizer, options, steps * options.epochs)
        self.ema = make_average(self.model, options.ema)
        if options.compile:
            self.model.compile()  # in its place, so that names and hooks stay
        self.wrapped, self.prepared = accelerator.prepare(self.model, self.optimizer)
        self.epoch = self.step = 0
        self.untested = False  # whether the last epoch's top-1 is still owed
        self.saved = time.monotonic()
        self.figures: list[Mapping[str, float | Tensor]] = []

    def result(self) -> ViT:
        """The model as it would be returned now."""
        return self.model if self.ema is None else cast(ViT, self.ema.module)

    def go(
        self, stream: Iterator[tuple[Tensor, Tensor]], mixing: Mixing, top1: Callable[[], float | None]
    ) -> None:
        """Train to the end, or until cancelled."""
        if self.untested:
            self._test(top1)
        while self.epoch < self.options.epochs:
            while self.step < self.steps:
                self._cancel_point()
                self._learn(*next(stream), mixing)
                if time.monotonic() - self.saved >= self.options.checkpoint_seconds:
                    self.save()
            self._close_epoch()
            self._test(top1)
        self._cancel_point()

    @property
    def done(self) -> int:
        """Steps taken in all."""
        return self.epoch * self.steps + self.step

    def _learn(self, images: Tensor, labels: Tensor, mixing: Mixing) -> None:
        device, number = self.accelerator.device, self.done
        images, targets = mixing(images.to(device), labels.to(device), number)
        self.schedule.step_update(number + 1)
        self.prepared.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=self.bf16):
            loss, figures = self.objective.loss(self.wrapped, images, targets)
        self.accelerator.backward(loss)
        if self.options.clip:
            self.accelerator.clip_grad_norm_(self.model.parameters(), self.options.clip)
        self.prepared.step()
        if self.ema is not None:
            self.ema.update(self.model, step=number + 1)
        self.objective.after_step(self.model, number)
        self.step += 1
        self.figures.append({"loss": loss.detach(), **figures})
        if self.done % REPORT_EVERY == 0 or self.step == self.steps:
            self._report(number)

    def _report(self, number: int) -> None:
        """Means since the last report, over all processes."""
        names = list(self.figures[-1])
        rows = [[float(row[name]) for name in names] for row in self.figures]
        means = torch.tensor(rows, dtype=torch.float64).mean(0).float().to(self.accelerator.device)
        values = dict(zip(names, self.accelerator.reduce(means, "mean").tolist(), strict=True))
        self.figures.clear()
        if not math.isfinite(values["loss"]):
            raise ValueError(
                f"the loss is not finite after {number + 1} steps: "
                f"choose a learning rate below lr {self.options.lr:g}"
            )
        rate = max(group["lr"] for group in self.optimizer.param_groups)
        self.monitor.metrics(number + 1, epoch=(number + 1) / self.steps, lr=rate, **values)

    def _close_epoch(self) -> None:
        figures = self.objective.after_epoch(self.model, self.epoch)
        self.epoch, self.step = self.epoch + 1, 0
        if figures:
            self.monitor.metrics(self.done, **figures)
        last = self.epoch == self.options.epochs
        self.untested = last or self.epoch % self.options.test_every == 0
        self.save()  # before the test, so that a finished epoch is never lost

    def _test(self, top1: Callable[[], float | None]) -> None:
        value = top1() if self.untested else None
        if value is not None:
            self.monitor.metrics(self.done, top1=value)
        self.untested = False

    def _cancel_point(self) -> None:
        """Tell how far it is; where the main process is told to end, all processes do."""
        cancelled = None
        try:
            self.monitor("Training", self.done / (self.steps * self.options.epochs))
        except Cancelled as error:
            cancelled = error
        if self.accelerator.num_processes > 1:
            flag = torch.tensor(float(cancelled is not None), device=self.accelerator.device)
            if self.accelerator.reduce(flag, "sum") > 0:
                cancelled = cancelled or Cancelled("the main process was cancelled")
        if cancelled is not None:
            self.save()
            raise cancelled

    def save(self) -> None:
        """Write a checkpoint; where that fails, training goes on and the last one stays."""
        self.saved = time.monotonic()
        if self.file is None:
            return
        try:
            save_checkpoint(self.file, self._state())
        except OSError as error:
            self.monitor.note(f"{error}; training goes on, the checkpoint before it stays")

    def resume(self) -> None:
        """Go on where the checkpoint ends, if there is one; the main process reads it for all.

        Raises:
            ValueError: the checkpoint is damaged.
        """
        from accelerate.utils import broadcast_object_list

        state = load_checkpoint(self.file) if self.file is not None else None
        state = broadcast_object_list([state])[0]
        if state is None:
            return
        self.model.load_state_dict(state["model"])
        self.prepared.load_state_dict(state["optimizer"])
        if self.ema is not None:
            self.ema.module.load_state_dict(state["ema"])
        self.objective.load_state_dict(state["objective"])
        self.epoch, self.step, self.untested = state["epoch"], state["step"], state["untested"]
        set_random_state(state["random"])
        self.monitor.note(f"going on after {self.done} steps")

    def _state(self) -> State:
        return {
            "model": self.model.state_dict(),
            "optimizer": self.prepared.state_dict(),
            "ema": self.ema.module.state_dict() if self.ema is not None else {},
            "objective": self.objective.state_dict(),
            "epoch": self.epoch,
            "step": self.step,
            "untested": self.untested,
            "random": random_state(),
        }


def _top1(
    accelerator: Accelerator, model: ViT, test: ImageSet | None, preprocess: Preprocess, size: int
) -> float | None:
    """Top-1 on the test images, each process measuring its share."""
    if test is None:
        return None
    share = test.subset(range(accelerator.process_index, len(test), accelerator.num_processes))
    right = 0.0
    if len(share):
        device, training = accelerator.device, model.training
        moved = ((x.to(device), y.to(device)) for x, y in batches(share, preprocess, size))
        right = evaluate(model.eval(), moved).top1 * len(share)
        model.train(training)
    counted = accelerator.reduce(torch.tensor(right, device=accelerator.device), "sum")
    return float(counted) / len(test)


def _copied(model: ViT, arch: Architecture) -> ViT:
    """The same model anew, on the CPU: nothing compiled or hooked comes along."""
    new = ViT(arch)
    new.load_state_dict(model.state_dict())
    return new.eval()
