"""Latency of two models against each other, measured in turns on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from analysis.threads import threads as limited

Runner = Callable[[Tensor], object]  # one forward pass
Progress = Callable[[float], None]  # share done, 0 to 1

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
    progress: Progress = lambda _: None,
) -> dict[int, Timing]:
    """Time a and b in turns, so that whatever else the machine does hits both alike.

    `image_shape` is C Y X. Each round runs both once, and which goes first alternates.
    `threads` sets torch's thread count for the duration; None leaves it as it is.

    Raises:
        ValueError: a batch size, round or thread count below one.
    """
    if not batches or min(*batches, rounds, threads or 1, 1) < 1:
        raise ValueError("batch sizes, rounds and threads must be at least 1")
    timings = {}
    with limited(threads):
        for done, batch in enumerate(batches):
            images = torch.randn(batch, *image_shape, generator=torch.Generator().manual_seed(0))
            samples: tuple[list[float], list[float]] = ([], [])
            for turn in range(-warmup, rounds):
                for which in (0, 1) if turn % 2 else (1, 0):
                    spent = _milliseconds((a, b)[which], images)
                    if turn >= 0:
                        samples[which].append(spent)
                progress((done + (turn + warmup + 1) / (warmup + rounds)) / len(batches))
            timings[batch] = compare(*samples)
    return timings


def compare(a_ms: Sequence[float], b_ms: Sequence[float]) -> Timing:
    """Percentiles, speed-up and verdict of two sets of samples, in milliseconds."""
    a, b = _percentiles(a_ms), _percentiles(b_ms)
    if a.p90 < b.p10:
        verdict = "faster"
    elif b.p90 < a.p10:
        verdict = "slower"
    else:
        verdict = NOT_DISTINGUISHABLE
    return Timing(a, b, b.p50 / a.p50, verdict)


def _percentiles(samples: Sequence[float]) -> Percentiles:
    values = torch.tensor(samples, dtype=torch.float64)
    p10, p50, p90 = values.quantile(values.new_tensor([0.1, 0.5, 0.9])).tolist()
    return Percentiles(p10, p50, p90)


def _milliseconds(run: Runner, images: Tensor) -> float:
    began = time.perf_counter()
    run(images)
    return (time.perf_counter() - began) * 1000
