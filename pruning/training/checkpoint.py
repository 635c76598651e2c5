"""Checkpoints of a training: written whole or not at all, read without running code, never mixed up."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from analysis.models import read_pickled
from analysis.paths import open_regular
from pruning.seeding import State

CHECKPOINTS = "checkpoint"  # where a run keeps them


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
        OSError: it is no regular file, or cannot be opened.
    """
    if not os.path.lexists(file):
        return None
    with open_regular(file):  # a pipe or a device is said to be one
        pass
    try:
        state = read_pickled(file)
    except ValueError as error:
        raise damaged(file) from error
    if not isinstance(state, dict):
        raise damaged(file)
    return state


def damaged(file: Path) -> ValueError:
    """The error that says a checkpoint cannot be gone on from."""
    return ValueError(f"the checkpoint {file} is damaged: remove it to begin this training anew")


def require_alike(found: Any, known: Any) -> None:
    """Check that a state has the form of another: the same names, kinds of values and shapes of tensors.

    Lists and tuples may have other lengths, as long as what both have is alike, and what is None in one of
    the states, as it comes about later, may be anything in the other.

    Raises:
        ValueError: it has another form.
    """
    numbers = int | float
    if found is None or known is None:
        return
    if isinstance(known, Tensor):
        plain = isinstance(found, Tensor) and found.layout == known.layout and not found.is_meta
        if not plain or found.shape != known.shape or found.dtype != known.dtype:
            raise ValueError(f"expected a tensor of {tuple(known.shape)}")
    elif isinstance(known, dict):
        if not isinstance(found, dict) or found.keys() != known.keys():
            raise ValueError(f"expected the names {list(known)}")
        for name, value in known.items():
            require_alike(found[name], value)
    elif isinstance(known, list | tuple):
        if not isinstance(found, list | tuple):
            raise ValueError("expected a list")
        for one, other in zip(found, known, strict=False):
            require_alike(one, other)
    elif type(found) is not type(known) and not (
        isinstance(known, numbers) and isinstance(found, numbers) and bool not in (type(found), type(known))
    ):
        raise ValueError(f"expected a {type(known).__name__}")
