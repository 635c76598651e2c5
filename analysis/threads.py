"""A context manager for torch's thread count."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

MOST_THREADS = 256  # starting far more ends the process
_PER_PROCESSOR = 4  # more only wait for each other, for minutes in ONNX Runtime


def require_threads(count: int) -> None:
    """Check that it makes sense to compute on so many threads on this machine.

    Raises:
        ValueError: there are far fewer processors.
    """
    processors = os.cpu_count() or 1
    if count > _PER_PROCESSOR * processors:
        raise ValueError(
            f"threads must be at most {_PER_PROCESSOR * processors} on this machine, which has "
            f"{processors} processors, got {count}"
        )


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Run torch on `count` threads inside the `with`, or on as many as before if None; then restore.

    Raises:
        ValueError: a count below one or above `MOST_THREADS`.
    """
    if count is not None and not 1 <= count <= MOST_THREADS:
        raise ValueError(f"threads must be at least 1 and at most {MOST_THREADS}, got {count}")
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(count or before)
        yield
    finally:
        torch.set_num_threads(before)
