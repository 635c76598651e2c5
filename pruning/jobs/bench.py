"""Latency of models against each other: the one way to measure it, and a run that does.

The command `bench` and the run both load models by `load_to_time` and time them by `time_models`.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import ClassVar

import torch

from analysis.formats import Stored
from analysis.measure import (
    UNKNOWN,
    Percentiles,
    Runner,
    Times,
    Timing,
    compare,
    percentiles,
    require_bounds,
    take_turns,
    torch_runner,
)
from analysis.models import Named, Reading, load_named
from analysis.threads import require_threads
from analysis.vit import ViT
from pruning.export import onnx_runner
from pruning.progress import Monitor, Progress, quiet

TIMINGS = "timings.json"  # in a run folder: what a bench measured
Pair = tuple[str, str | None]  # a model, and a file of weights if it needs one

# What runs a model, by name; the second argument is the number of threads.
BACKENDS: dict[str, Callable[[ViT, int], Runner]] = {
    "torch": lambda model, threads: torch_runner(model),
    "onnx": onnx_runner,
}


@dataclass(frozen=True)
class BenchJob(Stored):
    """Models to be timed in turns, at some batch sizes; frozen, hashable, to and from JSON.

    `threads` None means as many as torch takes. `rounds` are those of the first look; they are doubled
    while a model is not distinguishable from the first one (`take_turns`). `reading` says what the files of
    the models do not; of a bundle it does not change the structure.

    Raises:
        ValueError: a value of another type, fewer than two models, one named twice, or a number out of
            its range.
    """

    INDENT: ClassVar[int | None] = 2
    NEEDED: ClassVar[tuple[str, ...]] = ("batches",)

    models: tuple[Pair, ...]
    batches: tuple[int, ...] = (1, 8)
    threads: int | None = None
    rounds: int = 30
    reading: Reading = Reading()

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.models) < 2 or len(set(self.models)) < len(self.models):
            raise ValueError(f"latency is measured of two models or more, each once, got {self.models}")
        require_bounds(self.batches, self.rounds, self.threads)

    def command(self) -> str:
        """The command lines that do the same, for each model against the first one."""
        first, *others = self.models
        return "\n".join(self._against(first, other) for other in others)

    def _against(self, first: Pair, other: Pair) -> str:
        words = ["python", "-m", "pruning", "bench", "--model", other[0]]
        words += ["--weights", other[1]] if other[1] else []
        words += ["--against", first[0]]
        words += ["--against-weights", first[1]] if first[1] else []
        words += self.reading.words()
        words += ["--batch", ",".join(map(str, self.batches)), "--rounds", str(self.rounds)]
        return shlex.join([*words, *(["--threads", str(self.threads)] if self.threads else [])])


@dataclass(frozen=True)
class Timings(Stored):
    """What a bench measured of `models`, in their order.

    `ms[batch]` holds the percentiles of each, `each[batch]` the milliseconds of each in every round, from
    which models are compared. Files of version 1 have no `each`: what they hold has no interval.

    Raises:
        ValueError: a value of another type, not as many entries as models, or times that cannot be.
    """

    VERSION: ClassVar[int] = 2
    INDENT: ClassVar[int | None] = 1

    models: tuple[Pair, ...]
    ms: Mapping[int, tuple[Percentiles, ...]]
    threads: int
    rounds: int
    torch: str
    each: Mapping[int, Times] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, table in (("ms", self.ms), ("each", self.each)):
            for batch, row in table.items():
                if len(row) != len(self.models):
                    raise ValueError(
                        f"`{name}.{batch}` must have {len(self.models)} entries, one for each model"
                    )
        for batch, times in self.each.items():
            if batch not in self.ms:
                raise ValueError(f"`each.{batch}` must have its percentiles in `ms.{batch}`")
            if not times[0] or len(set(map(len, times))) > 1:
                raise ValueError(f"`each.{batch}` must have the same rounds for each model")
            if min(map(min, times)) <= 0:
                raise ValueError(f"`each.{batch}` must be milliseconds above 0")

    @classmethod
    def of_times(cls, job: BenchJob, each: Mapping[int, Times], threads: int) -> Timings:
        """The times of a job's models."""
        ms = {batch: tuple(map(percentiles, times)) for batch, times in each.items()}
        return cls(job.models, ms, threads, job.rounds, torch.__version__, each)

    def of(self, model: Pair | Named, batch: int) -> Percentiles:
        """Percentiles of one model."""
        return self.ms[batch][self._place(model)]

    def between(self, a: Pair | Named, b: Pair | Named, batch: int) -> Timing:
        """Speed-up and verdict of a against b."""
        if batch in self.each:
            times = self.each[batch]
            return compare(times[self._place(a)], times[self._place(b)])
        first, second = self.of(a, batch), self.of(b, batch)
        return Timing(first, second, second.p50 / first.p50, None, None, UNKNOWN, self.rounds)

    def _place(self, model: Pair | Named) -> int:
        return self.models.index(model[:2])

    def rounds_of(self, batch: int) -> int:
        """In how many rounds the models were timed."""
        return len(self.each[batch][0]) if batch in self.each else self.rounds


def run_bench(job: BenchJob, monitor: Monitor = Monitor()) -> Timings:
    """Load all models of the job and time them in turns.

    Raises:
        ValueError: a model cannot be loaded, or they take images of different sizes.
        Cancelled: the monitor asked for an end.
    """
    threads = job.threads or torch.get_num_threads()
    found = time_models(
        load_to_time(job.models, job.reading), job.batches, threads, job.rounds, progress=monitor
    )
    return Timings.of_times(job, found, threads)


def load_to_time(models: Sequence[Pair], reading: Reading = Reading()) -> list[ViT]:
    """Load models that are to be timed in turns, which takes images of one size.

    Raises:
        ValueError: a model cannot be loaded, or they take images of different sizes.
    """
    loaded = [load_named(Named(*pair, reading)).model for pair in models]
    shapes = {_image_shape(model) for model in loaded}
    if len(shapes) > 1:
        raise ValueError(f"models timed in turns must take images of one size, got {sorted(shapes)}")
    return loaded


def time_models(
    models: Sequence[ViT],
    batches: Sequence[int],
    threads: int,
    rounds: int,
    *,
    backend: str = "torch",
    progress: Progress = quiet,
) -> dict[int, Times]:
    """Time models in turns on one of `BACKENDS`: for each batch size, the times of each model.

    Raises:
        ValueError: a batch size, round or thread count out of its range.
        Cancelled: `progress` asked for an end.
    """
    require_threads(threads)
    runners = [BACKENDS[backend](model, threads) for model in models]
    told = partial(progress, f"Timing the models in {backend}")
    shape = _image_shape(models[0])
    return take_turns(runners, shape, batches, threads=threads, rounds=rounds, progress=told)


def _image_shape(model: ViT) -> tuple[int, int, int]:
    return model.arch.in_channels, *model.arch.image_size


def read_timings(folder: Path) -> Timings:
    """What a bench left in its run folder.

    Raises:
        ValueError: there are none, or they are damaged.
    """
    return Timings.read(folder / TIMINGS)
