"""Checkpoints of a training: written whole or not at all, read without running code, never mixed up."""

from __future__ import annotations

import hashlib
import os
import pickle
import random
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

CHECKPOINTS = "checkpoint"  # where a run keeps them

State = dict[str, Any]  # tensors, numbers, strings, and lists, tuples and dicts of them


def fingerprint(*parts: object) -> str:
    """A short name for these values; other values, another name."""
    return hashlib.blake2b(repr(parts).encode(errors="surrogateescape"), digest_size=8).hexdigest()


def save_checkpoint(file: Path, state: State) -> None:
    """Replace `file` by this state; whatever happens on the way, a whole file lies there.

    What was there stays beside it, ending in `.spare`, and is written over the next time: a disk that
    had room for two checkpoints of a training has room for all that follow, however full it gets.

    Raises:
        OSError: the disk is full, or the place cannot be written to; what was there stays.
    """
    spare = file.with_suffix(".spare")
    fresh = not spare.exists()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        _write(spare, state)
        _exchange(file, spare)
    except (OSError, RuntimeError) as error:  # torch says RuntimeError where the disk is full
        with suppress(OSError):
            if fresh:
                spare.unlink(missing_ok=True)
        raise OSError(f"the checkpoint {file.name} could not be written: {error}") from error
    _settle(file.parent)


def _write(spare: Path, state: State) -> None:
    """Over what is there, in its place."""
    with os.fdopen(os.open(spare, os.O_RDWR | os.O_CREAT, 0o666), "r+b") as stream:
        torch.save(state, stream)
        stream.truncate()
        stream.flush()
        os.fsync(stream.fileno())


def _exchange(file: Path, spare: Path) -> None:
    """The spare becomes the file and the file the spare; at every moment there is a whole file."""
    before = file.with_suffix(".before")
    before.unlink(missing_ok=True)
    with suppress(OSError):  # no checkpoint yet, or a disk without hard links, where each needs new room
        os.link(file, before)
    spare.replace(file)
    if before.exists():
        before.replace(spare)


def _settle(folder: Path) -> None:
    """Make the renaming survive a power cut; where folders cannot be synchronised, nothing is lost."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def load_checkpoint(file: Path) -> State | None:
    """The state in `file` with its tensors in main memory, None where there is no such file.

    Raises:
        ValueError: it is no checkpoint, or damaged.
    """
    if not file.exists():
        return None
    try:
        state: State = torch.load(file, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, ValueError, LookupError, pickle.UnpicklingError) as error:
        raise ValueError(
            f"the checkpoint {file} is damaged: remove it to begin this training anew"
        ) from error
    return state


def random_state() -> State:
    """Where the global random streams of python, numpy and torch (processor) stand."""
    numpy: dict[str, Any] = np.random.get_state(legacy=False)
    return {
        "python": random.getstate(),
        # plain loading refuses numpy's arrays, and rightly
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
    """Put the global random streams back to where `random_state` found them."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    key, position, has_gauss, value = state["numpy"]
    np.random.set_state(("MT19937", key.numpy().astype(np.uint32), position, has_gauss, value))
    torch.set_rng_state(state["torch"])
    if state["cuda"] and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])


@contextmanager
def seeded(*words: object) -> Iterator[None]:
    """Inside the `with`, the processor's random streams depend on these words alone; restored after."""
    seed = int(fingerprint("seed", *words), 16)
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.default_generator.manual_seed(seed % 2**63)  # not CUDA's: worker processes must not touch it
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])
