"""Latency of models against each other, measured in turns on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from analysis.threads import threads as limited

Runner = Callable[[Tensor], object]  # one forward pass
ShareDone = Callable[[float], None]  # share done, 0 to 1

NOT_DISTINGUISHABLE = "not distinguishable"


@dataclass(frozen=True)
class Percentiles:
    """Milliseconds of one forward pass of a whole batch."""

    p10: float
    p50: float
    p90: float


@dataclass(frozen=True)
class Timing:
    """Two runners at one batch size. `speedup` is b's median over a's: how much faster a is.

    `verdict` is "faster" or "slower" of a against b, or "not distinguishable" where the
    p10 to p90 intervals overlap.
    """

    a_ms: Percentiles
    b_ms: Percentiles
    speedup: float
    verdict: str


def torch_runner(model: nn.Module) -> Runner:
    """Forward passes of a torch model, without gradients."""

    def run(images: Tensor) -> object:
        with torch.inference_mode():
            return model(images)

    return run


def bench(
    a: Runner,
    b: Runner,
    image_shape: tuple[int, int, int],
    batches: Sequence[int] = (1, 8),
    *,
    threads: int | None = None,
    rounds: int = 30,
    warmup: int = 3,
    progress: ShareDone = lambda _: None,
) -> dict[int, Timing]:
    """Time a and b in turns, so that whatever else the machine does hits both alike.

    As `take_turns`, which says what the arguments mean.

    Raises:
        ValueError: a batch size, round or thread count below one.
    """
    found = take_turns(
        (a, b), image_shape, batches, threads=threads, rounds=rounds, warmup=warmup, progress=progress
    )
    return {batch: judge(*times) for batch, times in found.items()}


def take_turns(
    runners: Sequence[Runner],
    image_shape: tuple[int, int, int],
    batches: Sequence[int] = (1, 8),
    *,
    threads: int | None = None,
    rounds: int = 30,
    warmup: int = 3,
    progress: ShareDone = lambda _: None,
) -> dict[int, tuple[Percentiles, ...]]:
    """Time any number of runners in turns: for each batch size, percentiles of each.

    `image_shape` is C Y X. Each round runs all of them once, and each round begins with the next one, so
    that none always follows the same. `threads` sets torch's thread count for the duration; None leaves
    it as it is.

    Raises:
        ValueError: no runner, or a batch size, round or thread count below one.
    """
    if not runners:
        raise ValueError("there is nothing to time")
    if not batches or min(*batches, rounds, threads or 1, 1) < 1:
        raise ValueError("batch sizes, rounds and threads must be at least 1")
    found = {}
    with limited(threads):
        for done, batch in enumerate(batches):
            images = torch.randn(batch, *image_shape, generator=torch.Generator().manual_seed(0))
            samples: list[list[float]] = [[] for _ in runners]
            for turn in range(-warmup, rounds):
                for place in range(len(runners)):
                    which = (turn + place) % len(runners)
                    spent = _milliseconds(runners[which], images)
                    if turn >= 0:
                        samples[which].append(spent)
                progress((done + (turn + warmup + 1) / (warmup + rounds)) / len(batches))
            found[batch] = tuple(map(percentiles, samples))
    return found


def judge(a: Percentiles, b: Percentiles) -> Timing:
    """Speed-up and verdict of a against b."""
    if a.p90 < b.p10:
        verdict = "faster"
    elif b.p90 < a.p10:
        verdict = "slower"
    else:
        verdict = NOT_DISTINGUISHABLE
    return Timing(a, b, b.p50 / a.p50, verdict)


def percentiles(samples: Sequence[float]) -> Percentiles:
    """Percentiles of samples in milliseconds, interpolated between neighbours."""
    values = torch.tensor(samples, dtype=torch.float64)
    p10, p50, p90 = values.quantile(values.new_tensor([0.1, 0.5, 0.9])).tolist()
    return Percentiles(p10, p50, p90)


def _milliseconds(run: Runner, images: Tensor) -> float:
    began = time.perf_counter()
    run(images)
    return (time.perf_counter() - began) * 1000
