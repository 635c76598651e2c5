"""The twin of a model that merges: every patch goes on by itself, with what the mean of its token is.

Attention is then between patches everywhere and needs no sizes. One image, in loops and plain products.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from analysis.vit import Architecture, ViT

Groups = list[list[int]]  # of each token, the prefix tokens or patches that it stands for


@dataclass
class EveryPatch:
    """Attention maps of each block, one N0 N0 for each head; who forms the tokens before each block and
    after the last; the logits."""

    maps: list[list[Tensor]]
    groups: list[Groups]
    logits: Tensor


def every_patch(model: ViT, image: Tensor) -> EveryPatch:
    """Run the twin; the maps keep their gradients."""
    arch, prefix = model.arch, len(model.arch.prefix_names)
    x = model.embed(image[None])[0]
    groups: list[Groups] = [[[i] for i in range(len(x))]]
    maps: list[list[Tensor]] = []
    for block, widths in zip(model.blocks, arch.blocks, strict=True):
        maps.append([])
        left = groups[-1]
        if block.attn is not None:
            rows, (heads, qk, v) = block.attn.qkv(block.norm1(x)), (widths.heads, widths.qk, widths.v)
            outputs, read = [], torch.zeros(len(x))
            for head in range(heads):
                q = rows[:, head * qk : (head + 1) * qk]
                k = rows[:, (heads + head) * qk : (heads + head + 1) * qk]
                values = rows[:, 2 * heads * qk + head * v : 2 * heads * qk + (head + 1) * v]
                scores = (arch.scale * q @ k.T).exp()
                attention = scores / scores.sum(dim=1, keepdim=True)
                if attention.requires_grad:
                    attention.retain_grad()
                maps[-1].append(attention)
                outputs.append(attention @ values)
                read = read + attention[0].detach() / heads
            x = x + block.ls1(block.attn.proj(torch.cat(outputs, dim=1)))
            left = _merged(arch, left, x.detach(), read, widths.merge)
            x = mean_matrix(left) @ x
        groups.append(left)
        if block.mlp is not None:
            x = x + block.ls2(block.mlp(block.norm2(x)))
    x = model.norm(x)
    pooled = model.fc_norm(x[0] if arch.pool == "token" else x[prefix:].mean(dim=0))
    logits = model.head(pooled)
    return EveryPatch(
        maps, groups, logits if model.head_dist is None else (logits + model.head_dist(x[1])) / 2
    )


def mean_matrix(groups: Groups) -> Tensor:
    """The matrix that gives every patch the mean over its token, entry by entry."""
    size = sum(map(len, groups))
    matrix = torch.zeros(size, size)
    for group in groups:
        for i in group:
            for j in group:
                matrix[i, j] = 1 / len(group)
    return matrix


def read_weights(arch: Architecture, reads: list[float]) -> list[float]:
    """How much the distance of each token counts: the fourth root of how often it is read."""
    patches = len(reads) - len(arch.prefix_names)
    return [min(1.0, max(0.01, one * patches / 3)) ** 0.25 if arch.class_token else 1.0 for one in reads]


def _merged(arch: Architecture, groups: Groups, x: Tensor, read: Tensor, count: int) -> Groups:
    """Tokens in odd places that merge go to the nearest one in an even place, where they stay."""
    if not count:
        return groups
    prefix = len(arch.prefix_names)
    odd, even = range(prefix + 1, len(groups), 2), range(prefix, len(groups), 2)
    reads = [float(sum(read[i] for i in group)) for group in groups]
    weights = read_weights(arch, reads)
    seen = x - x.mean(dim=1, keepdim=True) if arch.norm == "layer" else x

    def apart(a: int, b: int) -> float:
        cosine = torch.cosine_similarity(seen[groups[a][0]], seen[groups[b][0]], dim=0)
        return (1 - float(cosine)) * weights[a] * weights[b]

    nearest = {a: min(even, key=lambda b: apart(a, b)) for a in odd}
    gone = sorted(odd, key=lambda a: apart(a, nearest[a]))[:count]
    received = [list(group) for group in groups]
    for a in gone:
        received[nearest[a]] += groups[a]
    return [group for i, group in enumerate(received) if i not in gone]
