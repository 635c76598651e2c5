"""Latency of models on this machine, measured in alternation so that they can be compared."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from analysis.measure.speedup import LOOKS, Timing, compare
from analysis.threads import MOST_THREADS
from analysis.threads import threads as limited

Runner = Callable[[Tensor], object]  # one forward pass
ShareDone = Callable[[float], None]  # called with the share done, 0 to 1
Times = tuple[tuple[float, ...], ...]  # for each runner, the milliseconds of every round
MOST_BATCH = 1024  # images: more do not fit into the memory of a usual machine
MOST_ROUNDS = 10_000
_TICK = 1e-6  # milliseconds: the least that a clock shows, so that ratios are finite


def torch_runner(model: nn.Module) -> Runner:
    """A runner for a torch model, without gradients."""

    def run(images: Tensor) -> object:
        with torch.inference_mode():
            return model(images)

    return run


def require_bounds(batches: Sequence[int], rounds: int, threads: int | None) -> None:
    """Check what is to be timed.

    Raises:
        ValueError: no batch size, or a batch size, rounds or threads out of their range.
    """
    if not batches:
        raise ValueError("batch sizes must be at least 1 in number, got none")
    given = [("batch sizes", batch, MOST_BATCH) for batch in batches]
    given += [("rounds", rounds, MOST_ROUNDS)]
    given += [] if threads is None else [("threads", threads, MOST_THREADS)]
    for name, value, most in given:
        if not 1 <= value <= most:
            raise ValueError(f"{name} must be at least 1 and at most {most:,}, got {value:,}")


def bench(
    a: Runner,
    b: Runner,
    image_shape: tuple[int, int, int],
    batches: Sequence[int] = (1, 8),
    *,
    threads: int | None = None,
    rounds: int = 30,
    looks: int = LOOKS,
    warmup: int = 3,
    progress: ShareDone = lambda _: None,
) -> dict[int, Timing]:
    """Time a and b in alternation, so that other load on the machine affects both alike.

    See `take_turns` for the arguments.

    Raises:
        ValueError: a batch size, or a number of rounds, looks or threads, out of its range.
    """
    measured = take_turns(
        (a, b),
        image_shape,
        batches,
        threads=threads,
        rounds=rounds,
        looks=looks,
        warmup=warmup,
        progress=progress,
    )
    return {batch: compare(times[0], times[1], looks) for batch, times in measured.items()}


def take_turns(
    runners: Sequence[Runner],
    image_shape: tuple[int, int, int],
    batches: Sequence[int] = (1, 8),
    *,
    threads: int | None = None,
    rounds: int = 30,
    looks: int = LOOKS,
    warmup: int = 3,
    progress: ShareDone = lambda _: None,
) -> dict[int, Times]:
    """Time any number of runners in alternation; for each batch size, return the times of each.

    `image_shape` is C Y X. Each round runs every runner once, in a new random order (the same in every
    measurement). After `rounds` rounds each runner is compared with the first one; as long as a pair is not
    distinguishable, the rounds are doubled, until they have been looked at `looks` times: four looks at 30
    rounds make at most 240. `threads` sets torch's thread count for the duration; None leaves it unchanged.

    Raises:
        ValueError: no runner, or a batch size, or a number of rounds, looks or threads, out of its range.
    """
    if not runners:
        raise ValueError("there is nothing to time")
    require_bounds(batches, rounds, threads)
    if looks < 1:
        raise ValueError(f"looks must be at least 1, got {looks}")
    measured = {}
    with limited(threads):
        for done, batch in enumerate(batches):
            images = torch.randn(batch, *image_shape, generator=torch.Generator().manual_seed(0))
            one_round = partial(_one_round, runners, images, random.Random(0))
            for _ in range(warmup):
                one_round()
                progress(done / len(batches))
            told = lambda share, done=done: progress((done + share) / len(batches))
            measured[batch] = enough_rounds(one_round, rounds, looks, told)
    return measured


def enough_rounds(
    one_round: Callable[[], Sequence[float]],
    rounds: int,
    looks: int,
    progress: ShareDone = lambda _: None,
) -> Times:
    """Repeat a round until each runner is told from the first one, or the last look has come.

    `one_round` gives the milliseconds of each runner.
    """
    played: list[Sequence[float]] = []
    most = rounds * 2 ** (looks - 1)
    for look in range(looks):
        while len(played) < rounds * 2**look:
            played.append(one_round())
            progress(len(played) / most)
        first, *others = times = tuple(zip(*played, strict=True))
        if all(compare(other, first, looks).decided for other in others):
            break
    progress(1.0)
    return times


def _one_round(runners: Sequence[Runner], images: Tensor, order: random.Random) -> list[float]:
    """Milliseconds of each runner, which take their turns in a random order."""
    spent = [0.0] * len(runners)
    for place in order.sample(range(len(runners)), len(runners)):
        began = time.perf_counter()
        runners[place](images)
        spent[place] = max((time.perf_counter() - began) * 1000, _TICK)
    return spent
