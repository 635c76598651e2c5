"""What speaks for a class: attention weighed by its gradient, after Chefer et al. and Gildenblat.

The gradient of a logit by an attention map needs no map in the graph: a head's output is O = A V, so
dA = dO V^T, and O is what goes into `proj`. So it is read off the fused model like everything else,
in one backward pass, and the N x N maps are formed one block at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from analysis.attention.capture import watch
from analysis.attention.rollout import rollout_from, with_skip
from analysis.attention.trace import mean_of_patches, one_token, to_patches
from analysis.frozen import frozen_copy
from analysis.vit import Architecture, ViT

CLASSIFIERS = ("mean", "class", "distillation")


@dataclass(frozen=True)
class _Pull:
    """One block's queries, keys, values, and the gradient of a logit by its heads' outputs."""

    q: Float[Tensor, "H N Dqk"]
    k: Float[Tensor, "H N Dqk"]
    v: Float[Tensor, "H N Dv"]
    slope: Float[Tensor, "H N Dv"]
    scale: float

    def weighted(self) -> Float[Tensor, "H N N"]:
        """dA ⊙ A."""
        attention = ((self.q * self.scale) @ self.k.transpose(-2, -1)).softmax(dim=-1)
        return attention * (self.slope @ self.v.transpose(-2, -1))


@dataclass(frozen=True, eq=False)
class Gradients:
    """One image and one logit: enough for its relevance and gradient rollout, read from any token."""

    arch: Architecture
    _blocks: tuple[_Pull, ...]

    def relevance(self, read: Float[Tensor, "R N"]) -> Float[Tensor, "R N"]:
        """Class-specific relevance (Chefer, Gur and Wolf 2021, transformers with self-attention alone).

        R = I, then R = R + mean_h((dA ⊙ A)+) R from the first block to the last [paper]; the rows of R
        that `read` asks for, without the I they began with [ours: where the reading is spread over
        patches it would lie under the map as a constant].
        """
        eye = torch.eye(self.arch.num_tokens)
        return rollout_from(read, (eye + step for step in self._positive())) - read

    def rollout(self, read: Float[Tensor, "R N"], discard: float = 0.0) -> Float[Tensor, "R N"]:
        """Gradient rollout (Gildenblat 2020): rollout of mean_h(dA ⊙ A)+ in place of the attention.

        Discarding is that of `analysis.attention.rollout`; rows of the whole product sum to one.

        Raises:
            ValueError: discard outside [0, 1).
        """
        prefix = len(self.arch.prefix_names)
        fused = (pull.weighted().mean(dim=0).clamp_min(0) for pull in reversed(self._blocks))
        return rollout_from(read, (with_skip(step[None], discard, prefix)[0] for step in fused))

    def _positive(self) -> Iterator[Float[Tensor, "N N"]]:
        for pull in reversed(self._blocks):
            yield pull.weighted().clamp_min(0).mean(dim=0)

    def map(self, values: Float[Tensor, "*R N"]) -> Float[Tensor, "*R Y X"]:
        """The patches' share of what was read, as they lie in the image."""
        return to_patches(values, self.arch)


def gradients(model: ViT, image: Float[Tensor, "C Y X"], label: int, classifier: str = "mean") -> Gradients:
    """Pull on one logit of one image; leaves the model untouched.

    `classifier` says which logit of a distilled model: that of its `class` head, of its `distillation` head,
    or the `mean` that it predicts by. Other models have one classifier, and `mean` is its logit.

    Raises:
        ValueError: no such class, or no such classifier.
    """
    _require(model.arch, label, classifier)
    own = frozen_copy(model)
    seen: list[dict[str, Tensor]] = [{} for _ in own.blocks]
    with ExitStack() as hooks, torch.enable_grad():
        for block, kept in zip(own.blocks, seen, strict=True):
            hooks.enter_context(watch(block.attn, kept))
        x = own.embed(image[None]).requires_grad_()  # the weights are frozen: the graph begins here
        for block in own.blocks:
            x = block(x)
        logit = _logits(own, x, classifier)[0, label]
        slopes = torch.autograd.grad(logit, [kept["proj"] for kept in seen])
    pulls = []
    for block, kept, slope in zip(own.blocks, seen, slopes, strict=True):
        q, k, v = (part[0].detach() for part in block.attn.split_heads(kept["qkv"]))
        by_head = slope[0].unflatten(-1, (block.attn.heads, -1)).transpose(0, 1)  # H N Dv
        pulls.append(_Pull(q, k, v, by_head, block.attn.scale))
    return Gradients(model.arch, tuple(pulls))


def classifiers_of(arch: Architecture) -> tuple[str, ...]:
    """Whose logit can be asked for: see `gradients`."""
    return CLASSIFIERS if arch.distilled else CLASSIFIERS[:1]


def readout(arch: Architecture, classifier: str = "mean") -> Float[Tensor, " N"]:
    """Where a logit is read: at the class or distillation token, at both alike, or at the patches alike."""
    if arch.pool != "token":
        return mean_of_patches(arch)
    tokens = {"class": [0], "distillation": [1], "mean": [0, 1] if arch.distilled else [0]}[classifier]
    return torch.stack([one_token(arch, token) for token in tokens]).mean(dim=0)


def _logits(model: ViT, x: Float[Tensor, "B N E"], classifier: str) -> Float[Tensor, "B num_classes"]:
    if classifier == "mean" or model.head_dist is None:
        return model.classify(x)
    normed = model.norm(x)
    return model.head(normed[:, 0]) if classifier == "class" else model.head_dist(normed[:, 1])


def _require(arch: Architecture, label: int, classifier: str) -> None:
    if arch.num_classes == 0:
        raise ValueError("relevance needs a model with classes: load weights with a classifier")
    if not 0 <= label < arch.num_classes:
        raise ValueError(f"a class of this model has a number from 0 to {arch.num_classes - 1}, got {label}")
    if classifier not in classifiers_of(arch):
        raise ValueError(
            f"this model's logits are of {' or '.join(classifiers_of(arch))}, got {classifier!r}"
        )
