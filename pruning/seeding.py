"""Fingerprints of values, and random state: save, restore and seed it."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

State = dict[str, Any]  # tensors, numbers, strings, and lists, tuples and dicts of them


def fingerprint(*parts: object) -> str:
    """A short hash of these values."""
    return hashlib.blake2b(repr(parts).encode(errors="surrogateescape"), digest_size=8).hexdigest()


def random_state() -> State:
    """The state of the global random generators of python, numpy and torch."""
    numpy: dict[str, Any] = np.random.get_state(legacy=False)
    return {
        "python": random.getstate(),
        # as a tensor, because loading with weights_only=True refuses numpy arrays
        "numpy": (
            torch.from_numpy(numpy["state"]["key"].astype(np.int64)),
            int(numpy["state"]["pos"]),
            int(numpy["has_gauss"]),
            float(numpy["gauss"]),
        ),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
    }


def set_random_state(state: State) -> None:
    """Restore the global random generators to a state returned by `random_state`."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    key, position, has_gauss, value = state["numpy"]
    np.random.set_state(("MT19937", key.numpy().astype(np.uint32), position, has_gauss, value))
    torch.set_rng_state(state["torch"])
    if state["cuda"] and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])


@contextmanager
def seeded(*words: object, numpy: bool = True) -> Iterator[None]:
    """Seed the CPU's random generators from these words inside the `with`, then restore their state.

    Where nothing draws from numpy's, it may be left as it is: it takes most of the time.
    """
    seed = int(fingerprint("seed", *words), 16)
    before = random.getstate(), np.random.get_state() if numpy else None, torch.get_rng_state()
    try:
        random.seed(seed)
        if numpy:
            np.random.seed(seed % 2**32)
        torch.default_generator.manual_seed(seed % 2**63)  # CPU only: worker processes must not use CUDA
        yield
    finally:
        random.setstate(before[0])
        if before[1] is not None:
            np.random.set_state(before[1])
        torch.set_rng_state(before[2])
