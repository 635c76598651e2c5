"""Activations on disk: what a model computes batch by batch, where it is too much to be held in memory."""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import tempfile
import weakref
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

_PREFIX = ".prunescope-activations-"


class Activations:
    """Tensors by name and number of their batch, in a folder of their own inside `place`.

    `place` is the run folder where there is one, else the folder for temporary files. The folder is removed
    at the end of a `with`, or else as soon as nobody holds this object any more, and when Python ends at the
    latest. What a killed process left in the same place is removed at the beginning.

    Raises:
        OSError: the folder cannot be made.
    """

    def __init__(self, device: torch.device | str = "cpu", place: Path | None = None) -> None:
        self.device = device
        sweep(place)
        self._folder, handle = _locked_folder(place)
        self._remove = weakref.finalize(self, _remove, self._folder, handle)

    def write(self, number: int, **tensors: Tensor) -> None:
        """Keep tensors of a batch by name, in place of those that were there.

        Raises:
            OSError: no room for them.
        """
        for name, x in tensors.items():
            np.save(self._folder / f"{name}-{number}.npy", x.cpu().numpy())

    def read(self, number: int, name: str) -> Tensor:
        """A tensor of a batch, on the device."""
        return torch.from_numpy(np.load(self._folder / f"{name}-{number}.npy")).to(self.device)

    def __enter__(self) -> Activations:
        return self

    def __exit__(self, *_: object) -> None:
        self._remove()


def sweep(place: Path | None = None) -> None:
    """Remove the activations that killed processes of this user left in a run folder or the temporary one.

    A process holds a lock on its folder while it lives, so those of others at work stay.
    """
    with suppress(OSError):
        for path in Path(place or tempfile.gettempdir()).iterdir():
            if path.name.startswith(_PREFIX):
                _sweep_one(path)


def _sweep_one(folder: Path) -> None:
    with suppress(OSError):  # gone by now, in use, or on a disk without locks
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
            return
        handle = os.open(folder, os.O_RDONLY | os.O_NOFOLLOW)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(handle)


def _locked_folder(place: Path | None) -> tuple[Path, int]:
    """A new folder, and the handle that holds the lock on it until it is closed or this process ends."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=place))
        with suppress(FileNotFoundError):  # swept by another process before it was locked
            handle = os.open(folder, os.O_RDONLY)
            with suppress(OSError):  # a disk without locks, where `sweep` leaves everything
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if folder.exists():
                return folder, handle
            os.close(handle)


def _remove(folder: Path, handle: int) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):
        os.close(handle)
