"""What a model gives, and how far two models differ in it: the logits of a classifier, or features.

A model without a classifier is used for its features: the pooled vector, and the patch tokens behind the last
norm. `task_of` says which of both a model is for; measures, losses and pages ask it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from analysis.vit import Architecture, ViT, spread

CLASSIFY, FEATURES = "classify", "features"


@dataclass(frozen=True)
class Output:
    """What a model for `task` gives for a batch: logits, or features.

    `vectors` are the logits, or the pooled vectors. `patches` are the patch tokens behind the last norm, of
    features alone; a token that stands for several patches is given for each of them. None where the last
    block computes no patches (`skip_unread`).
    """

    task: str
    vectors: Float[Tensor, "B C"]
    patches: Float[Tensor, "B P E"] | None = None


def task_of(model: Architecture | ViT) -> str:
    """`CLASSIFY`, or `FEATURES` for a model without a classifier."""
    arch = model.arch if isinstance(model, ViT) else model
    return CLASSIFY if arch.num_classes else FEATURES


def gives_patches(arch: Architecture) -> bool:
    """Whether patch tokens belong to what a model gives."""
    return task_of(arch) == FEATURES and not arch.skip_unread


def needed_tokens(arch: Architecture) -> int | None:
    """How many tokens, the first ones, the last block must give for the output; None: all."""
    if arch.pool != "token" or gives_patches(arch) or arch.blocks[-1].merge:  # which merges all that it has
        return None
    return 1 + arch.distilled


def output_from(model: ViT, x: Float[Tensor, "B N E"], first: int = 0) -> Output:
    """The output from the stream before block `first`, in which no tokens have merged yet."""
    # where each patch has gone is worked out only for those who ask for patches
    places: list[Tensor] | None = [] if gives_patches(model.arch) else None
    sizes, last = None, model.arch.depth - 1
    for index, block in enumerate(model.blocks):
        if index >= first:
            count = needed_tokens(model.arch) if index == last else None
            x, sizes = block(x, sizes, count, places)
    return read_output(model, x, sizes, places or ())


def read_output(
    model: ViT,
    x: Float[Tensor, "B N E"],
    sizes: Float[Tensor, "B N"] | None = None,
    places: Sequence[Int[Tensor, "B N"]] = (),
) -> Output:
    """The output from the stream behind the last block; `sizes` and `places` tell what has merged."""
    vectors = model.classify(x, sizes)
    if not gives_patches(model.arch):
        return Output(task_of(model), vectors)
    tokens = spread(model.fc_norm(model.norm(x)), places)
    return Output(FEATURES, vectors, tokens[:, len(model.arch.prefix_names) :])


def output(model: ViT, images: Float[Tensor, "B C Y X"]) -> Output:
    """The output for some images."""
    return output_from(model, model.embed(images))


# ---- differences


def divergence(dense: Output, other: Output) -> Float[Tensor, " B"]:
    """How far an output is from the dense model's, at least zero.

    Of logits the KL divergence. Of features [ours] the mean of 1 - cos of the pooled vectors, and of
    1 - cos of the patch tokens over all patches; where one of both gives no patches, the first alone.
    """
    if dense.task == CLASSIFY:
        return kl_divergence(dense.vectors, other.vectors)
    pooled = turned(dense.vectors, other.vectors)
    if dense.patches is None or other.patches is None:
        return pooled
    return (pooled + turned(dense.patches, other.patches).mean(dim=1)) / 2


def kl_divergence(dense: Float[Tensor, "B C"], other: Float[Tensor, "B C"]) -> Float[Tensor, " B"]:
    """sum_c p_c (log p_c - log q_c) of the softmax of two sets of logits, at least zero."""
    p, q = (logits.double().log_softmax(dim=-1) for logits in (dense, other))
    return (p.exp() * (p - q)).sum(dim=-1).clamp_min(0)


def turned(a: Float[Tensor, "*B E"], b: Float[Tensor, "*B E"]) -> Float[Tensor, "*B"]:
    """1 - cos of vectors, from 0 to 2: half the squared distance of their directions."""
    return (_direction(a.double()) - _direction(b.double())).square().sum(dim=-1) / 2


def probe(
    given: Output, generator: torch.Generator, classes: Int[Tensor, " B"] | None = None
) -> Float[Tensor, ""]:
    """A random scalar, summed over the batch, whose squared derivatives tell what small errors cost.

    An error e of anything before the output costs e^T F e / 2 in `divergence`, with F = E[g g^T] and g the
    scalar's derivative. Of logits it is log p(y), y drawn from the prediction unless `classes` give it:
    F is the Fisher information (Martens 2020). Of features it is a random combination of the directions'
    coordinates, normally distributed and weighted as in `divergence` [ours]: F is its Gauss-Newton matrix.
    """
    if given.task == CLASSIFY:
        likely = given.vectors.log_softmax(dim=-1)
        if classes is None:
            classes = torch.multinomial(likely.detach().exp(), 1, generator=generator)[:, 0]
        return likely.gather(1, classes[:, None]).sum()
    if given.patches is None:
        return _combined(given.vectors, generator)
    patches = _combined(given.patches, generator) / given.patches.shape[1] ** 0.5
    return (_combined(given.vectors, generator) + patches) / 2**0.5


def _combined(x: Float[Tensor, "*B E"], generator: torch.Generator) -> Float[Tensor, ""]:
    weights = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
    return (_direction(x) * weights).sum()


def _direction(x: Float[Tensor, "*B E"]) -> Float[Tensor, "*B E"]:
    return F.normalize(x, dim=-1, eps=1e-12)
