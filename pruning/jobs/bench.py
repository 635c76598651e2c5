"""Latency of models against each other: the one way to measure it, and a run that does.

The command `bench` and the run both load models by `load_to_time` and time them by `time_models`.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

import torch

from analysis.formats import Stored
from analysis.measure import Percentiles, Runner, Timing, judge, take_turns, torch_runner
from analysis.models import load
from analysis.vit import ViT
from pruning.bundle import onnx_runner
from pruning.files import replace_text
from pruning.progress import Monitor, Progress, quiet

TIMINGS = "timings.json"  # in a run folder: what a bench measured
Named = tuple[str, str | None]  # a model, and a file of weights if it needs one

# What runs a model, by name; the second argument is the number of threads.
BACKENDS: dict[str, Callable[[ViT, int], Runner]] = {
    "torch": lambda model, threads: torch_runner(model),
    "onnx": onnx_runner,
}


@dataclass(frozen=True)
class BenchJob(Stored):
    """Models to be timed in turns, at some batch sizes; frozen, hashable, to and from JSON.

    `threads` None means as many as torch takes.

    Raises:
        ValueError: a value of another type, fewer than two models, one named twice, or a number below one.
    """

    INDENT: ClassVar[int | None] = 2
    NEEDED: ClassVar[tuple[str, ...]] = ("batches",)

    models: tuple[Named, ...]
    batches: tuple[int, ...] = (1, 8)
    threads: int | None = None
    rounds: int = 30

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.models) < 2 or len(set(self.models)) < len(self.models):
            raise ValueError(f"latency is measured of two models or more, each once, got {self.models}")
        if not self.batches or min(*self.batches, self.rounds, self.threads or 1, 1) < 1:
            raise ValueError("batch sizes, rounds and threads must be at least 1")

    def command(self) -> str:
        """The command lines that do the same, for each model against the first one."""
        first, *others = self.models
        return "\n".join(self._against(first, other) for other in others)

    def _against(self, first: Named, other: Named) -> str:
        words = ["python", "-m", "pruning", "bench", "--model", other[0]]
        words += ["--weights", other[1]] if other[1] else []
        words += ["--against", first[0]]
        words += ["--against-weights", first[1]] if first[1] else []
        words += ["--batch", ",".join(map(str, self.batches)), "--rounds", str(self.rounds)]
        return shlex.join([*words, *(["--threads", str(self.threads)] if self.threads else [])])


@dataclass(frozen=True)
class Timings(Stored):
    """What a bench measured: `ms[batch]` holds the percentiles of each of `models`, in their order.

    Raises:
        ValueError: a value of another type, or not as many percentiles as models.
    """

    INDENT: ClassVar[int | None] = 1

    models: tuple[Named, ...]
    ms: Mapping[int, tuple[Percentiles, ...]]
    threads: int
    rounds: int
    torch: str

    def __post_init__(self) -> None:
        super().__post_init__()
        for batch, row in self.ms.items():
            if len(row) != len(self.models):
                raise ValueError(f"`ms.{batch}` must have {len(self.models)} entries, one for each model")

    def of(self, model: Named, batch: int) -> Percentiles:
        """Percentiles of one model."""
        return self.ms[batch][self.models.index(model)]

    def between(self, a: Named, b: Named, batch: int) -> Timing:
        """Speed-up and verdict of a against b."""
        return judge(self.of(a, batch), self.of(b, batch))


def run_bench(job: BenchJob, monitor: Monitor = Monitor()) -> Timings:
    """Load all models of the job and time them in turns.

    Raises:
        ValueError: a model cannot be loaded, or they take images of different sizes.
        Cancelled: the monitor asked for an end.
    """
    threads = job.threads or torch.get_num_threads()
    found = time_models(load_to_time(job.models), job.batches, threads, job.rounds, progress=monitor)
    return Timings(job.models, found, threads, job.rounds, torch.__version__)


def load_to_time(models: Sequence[Named]) -> list[ViT]:
    """Load models that are to be timed in turns, which takes images of one size.

    Raises:
        ValueError: a model cannot be loaded, or they take images of different sizes.
    """
    loaded = [load(name, Path(weights) if weights else None).model for name, weights in models]
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
) -> dict[int, tuple[Percentiles, ...]]:
    """Time models in turns on one of `BACKENDS`: for each batch size, the percentiles of each model.

    Raises:
        ValueError: a batch size, round or thread count below one.
        Cancelled: `progress` asked for an end.
    """
    runners = [BACKENDS[backend](model, threads) for model in models]
    told = partial(progress, f"Timing the models in {backend}")
    shape = _image_shape(models[0])
    return take_turns(runners, shape, batches, threads=threads, rounds=rounds, progress=told)


def _image_shape(model: ViT) -> tuple[int, int, int]:
    return model.arch.in_channels, *model.arch.image_size


def save_timings(timings: Timings, file: Path) -> None:
    """Write them into a run folder; the file appears at once.

    Raises:
        OSError: it could not be written.
    """
    replace_text(file, timings.to_json())


def read_timings(folder: Path) -> Timings:
    """What a bench left in its run folder.

    Raises:
        ValueError: there are none, or they are damaged.
    """
    return Timings.read(folder / TIMINGS)
