"""The twin of a model that merges: every patch goes on by itself, with what the mean of its token is.

Attention is then between patches everywhere and needs no sizes. One image, in loops and plain products.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from analysis.vit import ViT

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
            outputs, keys = [], torch.zeros(len(x), qk)
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
                keys = keys + k.detach()
            x = x + block.ls1(block.attn.proj(torch.cat(outputs, dim=1)))
            left = _merged(left, keys, prefix, widths.merge)
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


def _merged(groups: Groups, keys: Tensor, prefix: int, count: int) -> Groups:
    """Tokens in odd places that merge go to the most similar one in an even place."""
    odd, even = groups[prefix + 1 :: 2], groups[prefix::2]
    best = []
    for one in odd:
        cosines = [float(torch.cosine_similarity(keys[one[0]], keys[other[0]], dim=0)) for other in even]
        best.append((max(cosines), cosines.index(max(cosines))))
    order = sorted(range(len(odd)), key=lambda place: -best[place][0])
    received = [list(group) for group in even]
    for place in order[:count]:
        received[best[place][1]] += odd[place]
    if not count:
        return groups
    return [*groups[:prefix], *(odd[place] for place in order[count:]), *received]
