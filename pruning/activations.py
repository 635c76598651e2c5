"""Activations on disk: what a model computes batch by batch, where it is too much to be held in memory."""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pruning.files import make_held_folder, sweep_held_folders

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
        parent = place or Path(tempfile.gettempdir())
        self._folder, handle = make_held_folder(parent, _PREFIX, mode=0o700)
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
    """Remove the activations that killed processes of this user left in a run folder or the temporary one."""
    with suppress(OSError):  # there may be no folder for temporary files
        sweep_held_folders(place or Path(tempfile.gettempdir()), _PREFIX)


def _remove(folder: Path, handle: int) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):
        os.close(handle)
