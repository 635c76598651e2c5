"""Activations on disk: what a model computes batch by batch, where it is too much to be held in memory."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from pathlib import Path

import numpy as np
import torch
from torch import Tensor


class Activations:
    """Tensors by name and number of their batch, in a temporary folder of their own.

    The folder is removed at the end of a `with`, or else as soon as nobody holds this object any more, and
    when Python ends at the latest.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = device
        self._folder = Path(tempfile.mkdtemp(prefix="prunescope-"))
        self._remove = weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)

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
