"""A compact record of one image's forward pass from which every attention map can be computed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from analysis.attention.capture import capture
from analysis.attention.tokens import Members, of_first, over_patches
from analysis.vit import Architecture, ViT, by_distance


@dataclass(frozen=True, eq=False)
class Trace:
    """Queries and keys of every block for one image, and the logits (features if there is no head).

    It holds 2 L H N Dqk values, the maps of all heads L H N N: for a ViT-B 14 MB instead of 22 at 224
    pixels, and 101 MB instead of 1081 at 518 pixels. `members` are the patches of the tokens that enter
    each block, and at the end of those that leave the last one; None where nothing has merged.
    """

    arch: Architecture
    queries: tuple[Float[Tensor, "H N Dqk"], ...]
    keys: tuple[Float[Tensor, "H N Dqk"], ...]
    logits: Float[Tensor, " num_classes"]
    members: tuple[Members | None, ...]
    biases: tuple[Float[Tensor, "H T"], ...] = ()  # `position_bias` of each block, where the model has one
    places: tuple[Int[Tensor, "1 N"] | None, ...] = ()  # of the tokens of each block, where it has one

    def token_attention(self, block: int) -> Float[Tensor, "H N N"]:
        """Attention maps between the tokens of a block: row i is what token i attends to."""
        scores = (self.queries[block] * self.arch.scale) @ self.keys[block].transpose(-2, -1)
        if self.biases and scores.numel():
            prefix = len(self.arch.prefix_names)
            places = self.places[block]
            bias = by_distance(self.biases[block], self.arch.grid, prefix, places)
            scores = scores + (bias if places is None else bias[0])
        members = self.members[block]
        return (scores if members is None else scores + members.sizes.log()).softmax(dim=-1)

    def attention(self, block: int) -> Float[Tensor, "H N0 N0"]:
        """Attention maps of a block between prefix tokens and patches, whatever has merged before it."""
        return over_patches(self.token_attention(block), self.members[block])

    @property
    def probabilities(self) -> Float[Tensor, " num_classes"]:
        """Softmax of the logits; empty for a model without a head."""
        return self.logits.softmax(-1) if self.arch.num_classes else self.logits[:0]

    def top(self, count: int = 5) -> list[tuple[int, float]]:
        """The most probable classes with their probabilities, in descending order; ties by index."""
        best = self.probabilities.sort(descending=True, stable=True)
        return list(zip(best.indices.tolist(), best.values.tolist(), strict=True))[:count]


def held_bytes(arch: Architecture) -> int:
    """Size in bytes of a `Trace` of this model, in float32."""
    *given, _ = arch.tokens
    values = sum(2 * n * block.heads * block.qk for n, block in zip(given, arch.blocks, strict=True))
    merging = (n - block.merge for n, block in zip(given, arch.blocks, strict=True) if block.merge)
    values += arch.distances * sum(block.heads for block in arch.blocks)
    return 4 * (
        values + (arch.num_classes or arch.feature_dim) + sum(2 * arch.num_tokens + n for n in merging)
    )


def trace(model: ViT, image: Float[Tensor, "C Y X"]) -> Trace:
    """Run one image through the model and keep its queries and keys; leaves the model unchanged."""
    queries, keys, places = [], [], []
    members: list[Members | None] = [None]
    with capture(model) as record:
        for block in record(image[None]):
            queries.append(block.q[0].clone())  # a view would keep all of `qkv` in memory
            keys.append(block.k[0].clone())
            places.append(block.places)
            members.append(members[-1] if block.left is block.members else of_first(block.left))
        logits = record.logits[0].clone()  # without a head, a view of all tokens
        tables = [None if block.attn is None else block.attn.position_bias for block in model.blocks]
        biases = [logits[:0, None] if table is None else table.detach().clone() for table in tables]
        biases = biases if model.arch.position_bias else []
        return Trace(
            *(model.arch, tuple(queries), tuple(keys), logits, tuple(members), tuple(biases)), tuple(places)
        )


def token_names(arch: Architecture) -> tuple[str, ...]:
    """Names of all tokens: the prefix tokens, then `patch ROW, COLUMN`, counted from 0."""
    rows, columns = arch.grid
    patches = (f"patch {y}, {x}" for y in range(rows) for x in range(columns))
    return (*arch.prefix_names, *patches)


def to_patches(values: Float[Tensor, "*H N"], arch: Architecture) -> Float[Tensor, "*H Y X"]:
    """Drop the values of the prefix tokens and arrange those of the patches as in the image."""
    return values[..., len(arch.prefix_names) :].unflatten(-1, arch.grid)


def one_token(arch: Architecture, token: int) -> Float[Tensor, " N"]:
    """The reading of one token: weight 1 there, 0 elsewhere.

    Raises:
        ValueError: no such token.
    """
    if not 0 <= token < arch.num_tokens:
        raise ValueError(f"the tokens of this model are numbered 0 to {arch.num_tokens - 1}, got {token}")
    return torch.eye(arch.num_tokens)[token]


def mean_of_patches(arch: Architecture) -> Float[Tensor, " N"]:
    """The mean over patches as a reading: 1 / patches on each patch, 0 on prefix tokens."""
    prefix = len(arch.prefix_names)
    read = torch.zeros(arch.num_tokens)
    read[prefix:] = 1 / (arch.num_tokens - prefix)
    return read
