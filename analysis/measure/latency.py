"""Latency of models on this machine, measured in alternation so that they can be compared."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from analysis.threads import threads as limited

Runner = Callable[[Tensor], object]  # one forward pass
ShareDone = Callable[[float], None]  # called with the share done, 0 to 1

NOT_DISTINGUISHABLE = "not distinguishable"


@dataclass(frozen=True)
class Percentiles:
    """Percentiles of the time of one forward pass of a whole batch, in milliseconds."""

    p10: float
    p50: float
    p90: float


@dataclass(frozen=True)
class Timing:
    """Two runners at one batch size; `speedup` is b's median over a's: how many times faster a is.

    `verdict` is "faster" or "slower", of a compared with b, or "not distinguishable" if the
    p10 to p90 intervals overlap.
    """

    a_ms: Percentiles
    b_ms: Percentiles
    speedup: float
    verdict: str


def torch_runner(model: nn.Module) -> Runner:
    """A runner for a torch model, without gradients."""

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
    """Time a and b in alternation, so that other load on the machine affects both alike.

    See `take_turns` for the arguments.

    Raises:
        ValueError: a batch size, round or thread count below one.
    """
    measured = take_turns(
        (a, b), image_shape, batches, threads=threads, rounds=rounds, warmup=warmup, progress=progress
    )
    return {batch: judge(*times) for batch, times in measured.items()}


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
    """Time any number of runners in alternation; for each batch size, return the percentiles of each.

    `image_shape` is C Y X. Each round runs every runner once, starting with a different one, so that the
    order varies. `threads` sets torch's thread count for the duration; None leaves it unchanged.

    Raises:
        ValueError: no runner, or a batch size, round or thread count below one.
    """
    if not runners:
        raise ValueError("there is nothing to time")
    if not batches or min(*batches, rounds, threads or 1, 1) < 1:
        raise ValueError("batch sizes, rounds and threads must be at least 1")
    measured = {}
    with limited(threads):
        for done, batch in enumerate(batches):
            images = torch.randn(batch, *image_shape, generator=torch.Generator().manual_seed(0))
            samples: list[list[float]] = [[] for _ in runners]
            for turn in range(-warmup, rounds):
                for place in range(len(runners)):
                    which = (turn + place) % len(runners)
                    elapsed = _milliseconds(runners[which], images)
                    if turn >= 0:
                        samples[which].append(elapsed)
                progress((done + (turn + warmup + 1) / (warmup + rounds)) / len(batches))
            measured[batch] = tuple(map(percentiles, samples))
    return measured


def judge(a: Percentiles, b: Percentiles) -> Timing:
    """Speed-up and verdict of a compared with b."""
    if a.p90 < b.p10:
        verdict = "faster"
    elif b.p90 < a.p10:
        verdict = "slower"
    else:
        verdict = NOT_DISTINGUISHABLE
    return Timing(a, b, b.p50 / a.p50, verdict)


def percentiles(samples: Sequence[float]) -> Percentiles:
    """Percentiles of samples in milliseconds, with linear interpolation."""
    values = torch.tensor(samples, dtype=torch.float64)
    p10, p50, p90 = values.quantile(values.new_tensor([0.1, 0.5, 0.9])).tolist()
    return Percentiles(p10, p50, p90)


def _milliseconds(run: Runner, images: Tensor) -> float:
    began = time.perf_counter()
    run(images)
    return (time.perf_counter() - began) * 1000
