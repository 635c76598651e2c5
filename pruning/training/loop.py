"""The loop of a training: steps, curves, checkpoints, and where it may be asked to end."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from analysis.vit import ViT
from pruning.progress import Cancelled, Monitor
from pruning.seeding import State, random_state, set_random_state
from pruning.training.augment import Mixing
from pruning.training.checkpoint import (
    CHECKPOINTS,
    damaged,
    load_checkpoint,
    require_alike,
    save_checkpoint,
)
from pruning.training.objective import Objective
from pruning.training.recipe import (
    Training,
    add_drop_paths,
    make_average,
    make_optimizer,
    make_schedule,
    precision_context,
    uses_bf16,
)

if TYPE_CHECKING:
    from accelerate import Accelerator

REPORT_EVERY = 10  # steps between two points of a curve


class Loop:
    """One training: what a checkpoint holds, and the loop around it. `epoch` and `step` come next.

    `name` is that of its checkpoint, `what` that of its curves and of its progress.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        model: ViT,
        objective: Objective,
        options: Training,
        steps: int,
        monitor: Monitor,
        name: str,
        what: str,
    ) -> None:
        self.accelerator, self.objective, self.options, self.steps = accelerator, objective, options, steps
        self.monitor, self.what = monitor if accelerator.is_main_process else Monitor(), what
        self.file = self.monitor.folder / CHECKPOINTS / f"{name}.pt" if self.monitor.folder else None
        self.bf16 = uses_bf16(options.precision, accelerator.device)
        self.model = copy.deepcopy(model).train().requires_grad_(True).to(accelerator.device)
        self.optimizer = make_optimizer(self.model, options)
        self.schedule = make_schedule(self.optimizer, options, steps * options.epochs)
        self.ema = make_average(self.model, options.ema)
        add_drop_paths(self.model, options.drop_path)
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
        self,
        stream: Iterator[tuple[Tensor, Tensor]],
        mixing: Mixing,
        top1: Callable[[], float | None],
        known: Mapping[str, float] | None = None,
    ) -> None:
        """Train to the end, or until cancelled; `known` are figures of the beginning.

        Raises:
            OSError: the monitor could not write; a checkpoint of this moment has been tried.
        """
        try:
            self._go(stream, mixing, top1, known)
        except OSError:  # a full disk, which has room for a checkpoint in the place of an older one
            self.save()
            raise

    def _go(
        self,
        stream: Iterator[tuple[Tensor, Tensor]],
        mixing: Mixing,
        top1: Callable[[], float | None],
        known: Mapping[str, float] | None,
    ) -> None:
        known = known if not self.done else None  # told twice, they would hide what was told in between
        if known or self.untested or self.step == self.steps:
            self._cancel_point()  # which says what the figures to come belong to
        if known:
            self.monitor.metrics(0, **known)
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
        images, targets = mixing(images, labels, number)
        self.schedule.step_update(number + 1)
        self.prepared.zero_grad()
        with precision_context(self.bf16, device):
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
        names = list(self.figures[-1])  # which may include some that earlier steps did not report
        columns = [[float(row[name]) for row in self.figures if name in row] for name in names]
        means = torch.tensor([math.fsum(column) / len(column) for column in columns], dtype=torch.float64)
        means = means.float().to(self.accelerator.device)
        values = dict(zip(names, self.accelerator.reduce(means, "mean").tolist(), strict=True))
        self.figures.clear()
        if not math.isfinite(values["loss"]):
            raise ValueError(
                f"the loss is not finite after {number + 1} steps: "
                f"choose a learning rate below lr {self.options.highest_lr:g}"
            )
        rate = max(group["lr"] for group in self.optimizer.param_groups)
        self.monitor.metrics(number + 1, epoch=(number + 1) / self.steps, lr=rate, **values)

    def _close_epoch(self) -> None:
        figures = self.objective.after_epoch(self.result(), self.epoch)
        self.epoch, self.step = self.epoch + 1, 0
        last = self.epoch == self.options.epochs
        self.untested = last or self.epoch % self.options.test_every == 0
        if figures:
            self.monitor.metrics(self.done, **figures)
        self.save()  # before the test, so that a finished epoch is never lost

    def _test(self, top1: Callable[[], float | None]) -> None:
        value = top1() if self.untested else None
        if value is not None:
            self.monitor.metrics(self.done, **{self.objective.score_name: value})
        self.untested = False

    def _cancel_point(self) -> None:
        """Tell how far it is; where the main process is told to end, all processes do."""
        cancelled = None
        try:
            self.monitor(self.what, self.done / (self.steps * self.options.epochs))
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
            with suppress(OSError):  # the log may be on the same disk
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
        try:
            self._restore(state)
        except Exception as error:  # torch raises all kinds of errors on states that it did not write
            raise damaged(self.file or Path()) from error
        self.monitor.note(f"going on after {self.done} steps")

    def _restore(self, state: State) -> None:
        """Take up the state of a checkpoint.

        Raises:
            ValueError: it has another form than the state of this training; torch raises other errors too.
        """
        mine = self._state()
        for name in ("model", "ema", "objective", "epoch", "step", "untested"):
            require_alike(state[name], mine[name])
        if not (0 <= state["epoch"] <= self.options.epochs and 0 <= state["step"] <= self.steps):
            raise ValueError("the epoch or the step is not one of this training")
        self.model.load_state_dict(state["model"])
        self._restore_optimizer(state["optimizer"], mine["optimizer"]["param_groups"])
        if self.ema is not None:
            self.ema.module.load_state_dict(state["ema"])
        self.objective.load_state_dict(state["objective"])
        self.epoch, self.step, self.untested = state["epoch"], state["step"], state["untested"]
        self.figures = _read_figures(state.get("figures", []))  # earlier checkpoints have none
        if self.done and not self.optimizer.state:
            raise ValueError("the optimiser has no moments")
        set_random_state(state["random"])

    def _restore_optimizer(self, state: State, groups: State) -> None:
        require_alike(state["param_groups"], groups)
        self.prepared.load_state_dict(state)
        for parameter, moments in self.optimizer.state.items():
            for value in moments.values():
                if not isinstance(value, Tensor) or (value.numel() > 1 and value.shape != parameter.shape):
                    raise ValueError("a moment of the optimiser does not belong to its parameter")

    def _state(self) -> State:
        return {
            "model": self.model.state_dict(),
            "optimizer": self.prepared.state_dict(),
            "ema": self.ema.module.state_dict() if self.ema is not None else {},
            "objective": self.objective.state_dict(),
            "epoch": self.epoch,
            "step": self.step,
            "untested": self.untested,
            "figures": [{name: float(value) for name, value in row.items()} for row in self.figures],
            "random": random_state(),
        }


def _read_figures(rows: Any) -> list[Mapping[str, float | Tensor]]:
    """The figures of steps that no report has told yet.

    Raises:
        ValueError: they are of another form.
    """
    plain = isinstance(rows, list) and all(isinstance(row, dict) for row in rows)
    if not plain or not all(type(value) is float for row in rows for value in row.values()):
        raise ValueError("figures must be numbers by name")
    return list(rows)
