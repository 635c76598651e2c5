"""What a projection measures on: steered images, token weights, and residual streams kept on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from analysis.measure import Batches
from analysis.vit import Architecture, ViT
from pruning.projection.steering import steer

_LAST = 5  # times the focus in the last block
_MOST = 0.9  # and at most so much of it


class Streams:
    """The residual streams of the dense and of the pruned model, batch by batch on disk."""

    def __init__(
        self,
        folder: Path,
        dense: ViT,
        batches: Batches,
        limit: int,
        share: float,
        pruned: ViT | None = None,
    ) -> None:
        """A `share` of the images is steered.

        `pruned`: the model whose embedding the second stream starts from, if not the dense one's.
        """
        parameter = next(dense.parameters())
        self.device = parameter.device
        self._folder, self._batches, count = folder, 0, 0
        for images, _ in batches:
            chosen = steer(dense, images[: limit - count].to(parameter), count, share)
            self.write(self._batches, dense=dense.embed(chosen), pruned=(pruned or dense).embed(chosen))
            self._batches, count = self._batches + 1, count + len(chosen)
            if count == limit:
                break
        if count == 0:
            raise ValueError("a refit needs calibration images, got none")

    def __iter__(self) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Number of the batch, the dense and the pruned stream: B N E each."""
        for number in range(self._batches):
            yield number, self._read("dense", number), self._read("pruned", number)

    def write(self, number: int, **streams: Tensor) -> None:
        """Replace the streams that are given by name."""
        for name, x in streams.items():
            np.save(self._folder / f"{name}-{number}.npy", x.cpu().numpy())

    def advance(self, through: Callable[[Tensor], Tensor]) -> None:
        """Take the pruned stream through a part of a model."""
        for number in range(self._batches):
            self.write(number, pruned=through(self._read("pruned", number)))

    def _read(self, name: str, number: int) -> Tensor:
        return torch.from_numpy(np.load(self._folder / f"{name}-{number}.npy")).to(self.device)


class Still:
    """Streams that both are the dense model's, taken `through` a part of it, whatever is written."""

    def __init__(self, streams: Streams, through: Callable[[Tensor], Tensor]) -> None:
        self.device, self._streams, self._through = streams.device, streams, through

    def __iter__(self) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Number of the batch, and the dense stream twice: B N E each."""
        for number, before, _ in self._streams:
            x = self._through(before)
            yield number, x, x

    def write(self, number: int, **streams: Tensor) -> None:
        """Nothing."""


def token_weights(arch: Architecture, last: bool, focus: float) -> Float[Tensor, " N"]:
    """How much each token counts in the statistics of a block [ours]; the mean is one.

    A share `focus` goes to the tokens that the classifier reads, five times as much in the last
    block, where nothing reads the others. Average pooling reads all patches: all count alike.
    """
    weights = torch.ones(arch.num_tokens)
    read = 1 + arch.distilled
    rest = arch.num_tokens - read
    if arch.pool == "token" and rest:
        share = min(_MOST, _LAST * focus) if last else focus
        share = max(share, read / arch.num_tokens)  # never below what they have by their number
        weights[:read] *= share * arch.num_tokens / read
        weights[read:] *= (1 - share) * arch.num_tokens / rest
    return weights
