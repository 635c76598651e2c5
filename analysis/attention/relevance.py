"""Class relevance: attention weighted by its gradient, after Chefer et al. and Gildenblat.

The gradient of a logit with respect to an attention map does not require the map in the autograd graph:
a head's output is O = A V, so dA = dO V^T, and O is the input of `proj`. One backward pass through the
fused model is therefore enough, and the N x N maps are formed one block at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from analysis.attention.capture import Captured, watch
from analysis.attention.rollout import rollout_from, with_skip
from analysis.attention.tokens import Members, averaging, merged, of_first, over_patches
from analysis.attention.trace import mean_of_patches, one_token, to_patches
from analysis.frozen import frozen_copy
from analysis.vit import Architecture, Attention, Placed, ViT, sizes_and_places

CLASSIFIERS = ("mean", "class", "distillation")


@dataclass(frozen=True)
class _BlockGradient:
    """One block's queries, keys, values, and the gradient of a logit with respect to its head outputs.

    `members` are the patches of its tokens.
    """

    q: Float[Tensor, "H N Dqk"]
    k: Float[Tensor, "H N Dqk"]
    v: Float[Tensor, "H N Dv"]
    d_output: Float[Tensor, "H N Dv"]
    attn: Attention
    members: Members | None
    places: Int[Tensor, "1 N"] | None

    def weighted(self) -> Float[Tensor, "H N N"]:
        """dA ⊙ A."""
        sizes = None if self.members is None else self.members.sizes[None]
        attention = self.attn.weights(self.q[None], self.k[None], sizes, self.places)[0]
        return attention * (self.d_output @ self.v.transpose(-2, -1))


@dataclass(frozen=True, eq=False)
class Gradients:
    """Gradients of one logit of one image: relevance and gradient rollout are computed from them.

    Blocks without attention pass everything on as it is, and are left out. Where tokens merge, what is
    followed is the mean over the patches of a token, as in `analysis.attention.rollout_of`.
    """

    arch: Architecture
    _blocks: tuple[_BlockGradient, ...]
    _left: Members | None  # behind the last block

    def relevance(self, read: Float[Tensor, "R N"]) -> Float[Tensor, "R N"]:
        """Class-specific relevance (Chefer, Gur and Wolf 2021, transformers with self-attention alone).

        R = I, then R = R + mean_h((dA ⊙ A)+) R from the first block to the last [paper]. Returns the
        rows of R selected by `read`, minus the initial I [ours: for a reading spread over the patches,
        I would add a constant to the map].
        """
        read = self._behind(read)
        steps = (step + torch.eye(len(step)) for step in self._positive())
        return rollout_from(read, map(over_patches, steps, self._members())) - read

    def rollout(self, read: Float[Tensor, "R N"], discard: float = 0.0) -> Float[Tensor, "R N"]:
        """Gradient rollout (Gildenblat 2020): rollout of mean_h(dA ⊙ A)+ in place of the attention.

        `discard` works as in `analysis.attention.rollout`; rows of the whole product sum to one.

        The code that came with the article (github.com/jacobgil/vit-explain, vit_grad_rollout.py) departs
        from this formula, so its maps differ from these. It collects gradients in the order of the
        backward pass, so it multiplies the attention of the first block by the gradient of the last, and
        so on. It divides by the sums of rows without `keepdim`, which divides column j by the sum of row
        j, so rows do not sum to one. It discards the lowest entries of the whole N x N map together, those
        of the class token's column among them. Its lists of maps and gradients are never emptied, so
        every image after the first is read with those of the images before it. That it takes (A + I) / 2
        makes no difference: normalising cancels the factor.

        Raises:
            ValueError: discard outside [0, 1).
        """
        prefix = len(self.arch.prefix_names)
        fused = (block.weighted().mean(dim=0).clamp_min(0) for block in reversed(self._blocks))
        steps = (with_skip(step[None], discard, prefix)[0] for step in fused)
        return rollout_from(self._behind(read), map(over_patches, steps, self._members()))

    def _positive(self) -> Iterator[Float[Tensor, "N N"]]:
        for block in reversed(self._blocks):
            yield block.weighted().clamp_min(0).mean(dim=0)

    def _members(self) -> Iterator[Members | None]:
        return (block.members for block in reversed(self._blocks))

    def _behind(self, read: Float[Tensor, "R N0"]) -> Float[Tensor, "R N0"]:
        """A reading of what leaves the last block, in which the patches of a token are one."""
        return read if self._left is None else read @ averaging(self._left)

    def map(self, values: Float[Tensor, "*R N"]) -> Float[Tensor, "*R Y X"]:
        """The values of the patches, arranged as in the image."""
        return to_patches(values, self.arch)


def gradients(model: ViT, image: Float[Tensor, "C Y X"], label: int, classifier: str = "mean") -> Gradients:
    """Backpropagate from one logit of one image; leaves the model unchanged.

    `classifier` selects the logit of a distilled model: that of its `class` head, that of its
    `distillation` head, or their `mean`, which the model predicts with. Other models have one classifier,
    called `mean`.

    Raises:
        ValueError: no such class, or no such classifier.
    """
    _require(model.arch, label, classifier)
    own = frozen_copy(model)
    nothing = torch.zeros(0)
    captured = [Captured(nothing, nothing) for _ in own.blocks]
    with ExitStack() as hooks, torch.enable_grad():
        for block, tensors in zip(own.blocks, captured, strict=True):
            hooks.enter_context(watch(block, tensors))
        x, sizes = own.embed(image[None]).requires_grad_(), None  # the graph begins here: weights are frozen
        places: list[Tensor | None] = []
        for block in own.blocks:
            places.append(sizes_and_places(sizes)[1])
            x, sizes = block(x, sizes)
        logit = _logits(own, x, sizes, classifier)[0, label]
        pairs = zip(own.blocks, captured, strict=True)
        outputs = [tensors.proj for block, tensors in pairs if block.attn is not None]
        grads = iter(torch.autograd.grad(logit, outputs) if outputs else ())
    blocks: list[_BlockGradient] = []
    members: Members | None = None
    for block, tensors, own_places in zip(own.blocks, captured, places, strict=True):
        if block.attn is None:
            continue
        q, k, v = (part.detach() for part in block.attn.split_heads(tensors.qkv, own_places))
        by_head = next(grads)[0].unflatten(-1, (block.attn.heads, -1)).transpose(0, 1)  # H N Dv
        one = _BlockGradient(q[0], k[0], v[0], by_head, block.attn, of_first(members), own_places)
        blocks.append(one)
        members = merged(block.merge, tensors.merging, members)
    return Gradients(model.arch, tuple(blocks), of_first(members))


def classifiers_of(arch: Architecture) -> tuple[str, ...]:
    """The classifiers whose logits `gradients` accepts for this architecture."""
    return CLASSIFIERS if arch.distilled else CLASSIFIERS[:1]


def readout(arch: Architecture, classifier: str = "mean") -> Float[Tensor, " N"]:
    """The tokens a logit depends on, as a reading: class token, distillation token, both, or all patches.

    With pool "both" class token and patches count half each; attention pooling counts as an average [ours].
    """
    if arch.pool == "both":
        return (one_token(arch, 0) + mean_of_patches(arch)) / 2
    if arch.pool != "token":
        return mean_of_patches(arch)
    tokens = {"class": [0], "distillation": [1], "mean": [0, 1] if arch.distilled else [0]}[classifier]
    return torch.stack([one_token(arch, token) for token in tokens]).mean(dim=0)


def _logits(
    model: ViT, x: Float[Tensor, "B N E"], sizes: Tensor | Placed | None, classifier: str
) -> Float[Tensor, "B num_classes"]:
    if classifier == "mean" or model.head_dist is None:
        return model.classify(x, sizes)
    normed = model.norm(x)
    return model.head(normed[:, 0]) if classifier == "class" else model.head_dist(normed[:, 1])


def _require(arch: Architecture, label: int, classifier: str) -> None:
    if arch.num_classes == 0:
        raise ValueError("relevance needs a model with a classifier: load weights that include one")
    if not 0 <= label < arch.num_classes:
        raise ValueError(f"the classes of this model are numbered 0 to {arch.num_classes - 1}, got {label}")
    if classifier not in classifiers_of(arch):
        raise ValueError(f"classifier must be {' or '.join(classifiers_of(arch))}, got {classifier!r}")
