"""What a projection measures on: steered images, token weights, and residual streams kept on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from analysis.measure import Batches
from analysis.vit import Architecture, ViT
from pruning.activations import Activations
from pruning.projection.steering import steer

_LAST = 5  # times the focus in the last block
_MOST = 0.9  # and at most so much of it


class Streams:
    """The residual streams of the dense and of the pruned model, batch by batch in `stored`."""

    def __init__(
        self,
        stored: Activations,
        dense: ViT,
        batches: Batches,
        limit: int,
        share: float,
        pruned: ViT | None = None,
    ) -> None:
        """Embed at most `limit` images, a `share` of them steered.

        `pruned`: the model whose embedding the second stream starts from, if not the dense one's.

        Raises:
            ValueError: no images.
            OSError: no room for the activations.
        """
        parameter = next(dense.parameters())
        self.device = parameter.device
        self._stored, self._batches, count = stored, 0, 0
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
            yield number, self._stored.read(number, "dense"), self._stored.read(number, "pruned")

    def write(self, number: int, **streams: Tensor) -> None:
        """Replace the streams that are given by name."""
        self._stored.write(number, **streams)

    def advance(self, through: Callable[[Tensor], Tensor], name: str = "pruned") -> None:
        """Take one of the streams through a part of a model."""
        for number in range(self._batches):
            self.write(number, **{name: through(self._stored.read(number, name))})


class Still:
    """Streams that both are the dense model's, taken `through` a part of it, whatever is written.

    Of the first `images` only, or of all.
    """

    def __init__(
        self, streams: Streams, through: Callable[[Tensor], Tensor], images: int | None = None
    ) -> None:
        self.device, self._streams, self._through, self._images = streams.device, streams, through, images

    def __iter__(self) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Number of the batch, and the dense stream twice: B N E each."""
        count = 0
        for number, before, _ in self._streams:
            if self._images is not None and count >= self._images:
                break
            x = self._through(before[: None if self._images is None else self._images - count])
            count += len(x)
            yield number, x, x

    def write(self, number: int, **streams: Tensor) -> None:
        """Nothing."""


def token_weights(arch: Architecture, block: int, focus: float) -> Float[Tensor, " N"]:
    """How much each token counts in the statistics of a block, given by its number [ours]; the mean is one.

    A share `focus` goes to the tokens that the classifier reads, five times as much in the last
    block, where nothing reads the others. Average pooling reads all patches: all count alike.
    """
    weights = torch.ones(arch.num_tokens)
    read = 1 + arch.distilled
    rest = arch.num_tokens - read
    if arch.pool == "token" and rest:
        share = min(_MOST, _LAST * focus) if block == arch.depth - 1 else focus
        share = max(share, read / arch.num_tokens)  # never below what they have by their number
        weights[:read] *= share * arch.num_tokens / read
        weights[read:] *= (1 - share) * arch.num_tokens / rest
    return weights
