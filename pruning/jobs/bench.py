"""Timing models as a run of its own: `BenchJob` as data, `run_bench`, and what it leaves on disk."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from analysis.measure import Percentiles, Timing, judge, take_turns, torch_runner
from analysis.models import load
from pruning.files import read_result, replace_text
from pruning.progress import Monitor

TIMINGS = "timings.json"  # in a run folder: what a bench measured
Named = tuple[str, str | None]  # a model, and a file of weights if it needs one


@dataclass(frozen=True)
class BenchJob:
    """Models to be timed in turns, at some batch sizes; frozen, hashable, to and from JSON.

    `threads` None means as many as torch takes.

    Raises:
        ValueError: fewer than two models, one named twice, or a number below one.
    """

    models: tuple[Named, ...]
    batches: tuple[int, ...] = (1, 8)
    threads: int | None = None
    rounds: int = 30

    def __post_init__(self) -> None:
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

    def to_json(self) -> str:
        """Serialise; `from_json` gives an equal job back."""
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> BenchJob:
        """Rebuild from `to_json`.

        Raises:
            ValueError: not JSON, or not such a job.
        """
        try:
            data: dict[str, Any] = json.loads(text)
            models = tuple((str(name), weights) for name, weights in data.pop("models"))
            return cls(models=models, batches=tuple(data.pop("batches")), **data)
        except (TypeError, LookupError, AttributeError, json.JSONDecodeError) as error:
            raise ValueError(f"this is not a job that times models: {error}") from error


@dataclass(frozen=True)
class Timings:
    """What a bench measured: `ms[batch]` holds the percentiles of each of `models`, in their order."""

    models: tuple[Named, ...]
    ms: Mapping[int, tuple[Percentiles, ...]]
    threads: int
    rounds: int
    torch: str

    def of(self, model: Named, batch: int) -> Percentiles:
        """Percentiles of one model."""
        return self.ms[batch][self.models.index(model)]

    def between(self, a: Named, b: Named, batch: int) -> Timing:
        """Speed-up and verdict of a against b."""
        return judge(self.of(a, batch), self.of(b, batch))

    def to_json(self) -> str:
        """Serialise; `from_json` gives equal timings back."""
        return json.dumps(asdict(self), indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Timings:
        """Rebuild from `to_json`.

        Raises:
            ValueError: not JSON, or not such timings.
        """
        try:
            data: dict[str, Any] = json.loads(text)
            models = tuple((str(name), weights) for name, weights in data.pop("models"))
            ms = {int(batch): tuple(Percentiles(**p) for p in row) for batch, row in data.pop("ms").items()}
            if any(len(row) != len(models) for row in ms.values()):
                raise TypeError(f"{len(models)} models were timed, and not each has its figures")
            return cls(models=models, ms=ms, **data)
        except (TypeError, LookupError, AttributeError, ValueError) as error:
            raise ValueError(f"these are no timings: {error}") from error


def run_bench(job: BenchJob, monitor: Monitor = Monitor()) -> Timings:
    """Load all models and time them in turns.

    Raises:
        ValueError: a model cannot be loaded, or they take images of different sizes.
        Cancelled: the monitor asked for an end.
    """
    models = [load(name, Path(weights) if weights else None).model for name, weights in job.models]
    shapes = {(model.arch.in_channels, *model.arch.image_size) for model in models}
    if len(shapes) > 1:
        raise ValueError(f"models timed in turns must take images of one size, got {sorted(shapes)}")
    threads = job.threads or torch.get_num_threads()
    found = take_turns(
        [torch_runner(model) for model in models],
        shapes.pop(),
        job.batches,
        threads=threads,
        rounds=job.rounds,
        progress=partial(monitor, "Timing the models in turns"),
    )
    return Timings(job.models, found, threads, job.rounds, torch.__version__)


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
    return read_result(folder / TIMINGS, Timings.from_json)
