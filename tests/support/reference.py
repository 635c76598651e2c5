"""Slow twins, written from the formulas with loops and N x N matrices; only capture is the project's."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable

import torch
from torch import Tensor

from analysis.attention.capture import capture
from analysis.vit import Architecture, ViT
from pruning.cut.plan import BlockPlan


def pair_scores(q: Tensor, k: Tensor, gamma: int) -> Tensor:
    """SNP equation for one head: q, k N D; cosines of whole N x N matrices taken as vectors."""
    u, s, vh = torch.linalg.svd(q @ k.T)
    scores = []
    for i in range(q.shape[1]):
        pair = torch.outer(q[:, i], k[:, i]).flatten()
        total = 0.0
        for j in range(gamma):
            direction = (s[j] * torch.outer(u[:, j], vh[j])).flatten()
            total += abs(float(direction @ pair / (direction.norm() * pair.norm())))
        scores.append(total)
    return torch.tensor(scores, dtype=q.dtype)


def dissimilarity(weight: Tensor) -> Tensor:
    """SNP value and MLP score: sum over the other rows of 1 - |cosine|."""
    scores = []
    for i in range(len(weight)):
        total = 0.0
        for other in range(len(weight)):
            if other != i:
                a, b = weight[i], weight[other]
                total += 1 - abs(float((a * b).sum() / math.sqrt(float((a * a).sum() * (b * b).sum()))))
        scores.append(total)
    return torch.tensor(scores, dtype=weight.dtype)


def rollout(maps: list[Tensor], fuse: str, discard: float, prefix: int) -> Tensor:
    """Rollout of one image with plain lists; maps: per block H N N."""
    n = maps[0].shape[-1]
    total = [[float(i == j) for j in range(n)] for i in range(n)]
    for block in maps:
        joins: dict[str, Callable[[list[float]], float]]
        joins = {"mean": lambda values: sum(values) / len(values), "max": max, "min": min}
        rows = []
        for i in range(n):
            row = [joins[fuse]([float(head[i, j]) for head in block]) for j in range(n)]
            droppable = sorted(range(prefix, n), key=lambda j: row[j])
            for j in droppable[: int(discard * (n - prefix))]:
                row[j] = 0.0
            row[i] += 1.0
            rows.append([value / sum(row) for value in row])
        total = [[sum(rows[i][m] * total[m][j] for m in range(n)) for j in range(n)] for i in range(n)]
    return torch.tensor(total, dtype=torch.float64)


def block_forward(
    x: Tensor,
    state: dict[str, Tensor],
    heads: list[int],
    plan_block: BlockPlan,
    widths: tuple[int, int],
    scale: float,
    eps: float,
) -> Tensor:
    """One pruned block on tokens N E of one image, by loops over what a plan keeps.

    Reads the dense weights (`norm1.weight`, `attn.qkv.weight`, ...) and the plan's indices;
    `widths` are the dense query-key and value widths, `heads` the dense head count as a list.
    """
    qk_width, v_width = widths
    count = len(heads)
    normed = layer_norm(x, state["norm1.weight"], state["norm1.bias"], eps)
    out = state["attn.proj.bias"].expand(len(x), -1).clone()
    weight, bias = state["attn.qkv.weight"], state["attn.qkv.bias"]
    for head, pairs, values in zip(plan_block.heads, plan_block.qk, plan_block.v, strict=True):
        scores = torch.zeros(len(x), len(x), dtype=x.dtype)
        for channel in pairs:
            q_row = head * qk_width + channel
            k_row = count * qk_width + q_row
            q = normed @ weight[q_row] + bias[q_row]
            k = normed @ weight[k_row] + bias[k_row]
            scores += torch.outer(q, k) * scale
        attention = scores.exp() / scores.exp().sum(dim=1, keepdim=True)
        for channel in values:
            v_row = 2 * count * qk_width + head * v_width + channel
            v = normed @ weight[v_row] + bias[v_row]
            out += torch.outer(attention @ v, state["attn.proj.weight"][:, head * v_width + channel])
    x = x + out * state.get("ls1.gamma", torch.ones(1, dtype=x.dtype))
    normed = layer_norm(x, state["norm2.weight"], state["norm2.bias"], eps)
    out = state["mlp.fc2.bias"].expand(len(x), -1).clone()
    for neuron in plan_block.mlp:
        a = normed @ state["mlp.fc1.weight"][neuron] + state["mlp.fc1.bias"][neuron]
        gelu = a * 0.5 * (1 + torch.erf(a / math.sqrt(2)))
        out += torch.outer(gelu, state["mlp.fc2.weight"][:, neuron])
    return x + out * state.get("ls2.gamma", torch.ones(1, dtype=x.dtype))


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """LayerNorm from its definition."""
    mean = x.mean(dim=-1, keepdim=True)
    variance = ((x - mean) ** 2).mean(dim=-1, keepdim=True)
    return (x - mean) / (variance + eps).sqrt() * weight + bias


def obs_order(covariance: Tensor, weight: Tensor, keep: int) -> list[int]:
    """Neurons left after greedy removal; every candidate's loss by a least squares from scratch."""
    left = list(range(len(covariance)))
    target = covariance @ weight.T
    while len(left) > keep:
        losses = []
        for gone in left:
            rest = [i for i in left if i != gone]
            inner, outer = covariance[rest][:, rest], target[rest]
            losses.append(-float((outer * torch.linalg.solve(inner, outer)).sum()))
        left.pop(losses.index(min(losses)))
    return left


def best_subset_of_pairs(query: Tensor, key: Tensor, keep: int) -> float:
    """Least E(q^T k - q_S^T k_S)^2 over all sets S of pairs; q and k independent, D x D moments."""
    width = len(query)
    losses = []
    for kept in itertools.combinations(range(width), keep):
        drop = torch.diag(torch.tensor([float(i not in kept) for i in range(width)], dtype=query.dtype))
        losses.append(float(torch.trace(query @ drop @ key @ drop)))
    return min(losses)


def total_distances(weight: Tensor) -> Tensor:
    """FPGM: sum of the Euclidean distances of a row to every other."""
    scores = [sum(math.dist(row, other) for other in weight.tolist()) for row in weight.tolist()]
    return torch.tensor(scores, dtype=weight.dtype)


Gates = dict[tuple[str, int, int, int], float]  # (structure, block, head, channel); absent is open


def gated_logits(state: dict[str, Tensor], arch: Architecture, image: Tensor, gates: Gates) -> Tensor:
    """Logits of one image C Y X from a state dict, every part multiplied by its gate."""
    kind = image.dtype
    embed = torch.tensor([gates.get(("embed", 0, 0, e), 1.0) for e in range(arch.embed_dim)], dtype=kind)
    x = _gated_norm(_tokens(state, arch, image), state, "norm_pre", arch, embed)
    for index, widths in enumerate(arch.blocks):
        prefix = f"blocks.{index}."
        own = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
        normed = _gated_norm(x, own, "norm1", arch, embed)
        rows = normed @ own["attn.qkv.weight"].T + own.get("attn.qkv.bias", 0)
        out = own["attn.proj.bias"].expand(len(x), -1).clone()
        for head in range(widths.heads):
            scores = torch.zeros(len(x), len(x), dtype=kind)
            for i in range(widths.qk):
                q_row = head * widths.qk + i
                term = torch.outer(rows[:, q_row], rows[:, widths.heads * widths.qk + q_row])
                scores += gates.get(("qk", index, head, i), 1.0) * term * arch.scale
            attention = scores.exp() / scores.exp().sum(dim=1, keepdim=True)
            for d in range(widths.v):
                gate = gates.get(("v", index, head, d), 1.0) * gates.get(("heads", index, 0, head), 1.0)
                channel = head * widths.v + d
                seen = attention @ (gate * rows[:, 2 * widths.heads * widths.qk + channel])
                out += torch.outer(seen, own["attn.proj.weight"][:, channel])
        x = x + out * own.get("ls1.gamma", torch.ones(1, dtype=kind))
        a = _gated_norm(x, own, "norm2", arch, embed) @ own["mlp.fc1.weight"].T + own["mlp.fc1.bias"]
        quick = arch.activation == "quick_gelu"
        a = a / (1 + (-1.702 * a).exp()) if quick else a * 0.5 * (1 + torch.erf(a / math.sqrt(2)))
        a = a * torch.tensor([gates.get(("mlp", index, 0, f), 1.0) for f in range(widths.mlp)], dtype=kind)
        out = a @ own["mlp.fc2.weight"].T + own["mlp.fc2.bias"]
        x = x + out * own.get("ls2.gamma", torch.ones(1, dtype=kind))
    x = _gated_norm(x, state, "norm", arch, embed)
    first = x[0] if arch.pool == "token" else x[len(arch.prefix_names) :].mean(dim=0)
    first = _gated_norm(first, state, "fc_norm", arch, embed)
    logits = state["head.weight"] @ first + state["head.bias"]
    if arch.distilled:
        logits = (logits + state["head_dist.weight"] @ x[1] + state["head_dist.bias"]) / 2
    return logits


def _tokens(state: dict[str, Tensor], arch: Architecture, image: Tensor) -> Tensor:
    (rows, columns), (high, wide) = arch.grid, arch.patch_size
    filters, patches = state["patch_embed.proj.weight"], []
    for i in range(rows):
        for j in range(columns):
            patch = image[:, i * high : (i + 1) * high, j * wide : (j + 1) * wide]
            patches.append((filters * patch).sum(dim=(1, 2, 3)) + state.get("patch_embed.proj.bias", 0))
    prefix = [state[name][0] for name in ("cls_token", "dist_token", "reg_token") if name in state]
    x, position = torch.stack(patches), state["pos_embed"][0]
    return torch.cat([*prefix, x]) + position if arch.pos_embed_prefix else torch.cat([*prefix, x + position])


def _gated_norm(x: Tensor, state: dict[str, Tensor], name: str, arch: Architecture, gate: Tensor) -> Tensor:
    """A norm whose mean and variance weigh each channel by its gate, and whose output is gated too."""
    if f"{name}.weight" not in state:
        return x
    mean = (gate * x).sum(dim=-1, keepdim=True) / gate.sum() if arch.norm == "layer" else 0
    variance = (gate * (x - mean) ** 2).sum(dim=-1, keepdim=True) / gate.sum()
    normed = (x - mean) / (variance + arch.norm_eps).sqrt() * state[f"{name}.weight"]
    return gate * (normed + state.get(f"{name}.bias", 0))


def cross_entropy(logits: Tensor, label: int) -> float:
    """-log softmax of the label, from its definition."""
    return float(logits.exp().sum().log() - logits[label])


def maps_and_outputs(model: ViT, images: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
    with capture(model) as record:
        return [(b.attention.double(), b.head_output.double()) for b in record(images)]


def added_by_heads(model: ViT, images: torch.Tensor) -> list[torch.Tensor]:
    """Per block, what each head adds to the residual stream: the block's attention with one head alone.

    B H N E, by running `proj` and LayerScale on the output of one head and zeros for the others.
    """
    found = []
    for block, (_, outputs) in zip(model.blocks, maps_and_outputs(model, images), strict=True):
        own = copy.deepcopy(block).double()
        alone = []
        for head in range(outputs.shape[1]):
            only = torch.zeros_like(outputs)
            only[:, head] = outputs[:, head]
            nothing = torch.zeros_like(outputs)
            with torch.no_grad():
                got, bias = (own.ls1(own.attn.proj(x.transpose(1, 2).flatten(2))) for x in (only, nothing))
            alone.append(got - bias)
        found.append(torch.stack(alone, dim=1))
    return found


# ---- slow twins, in loops


def cosine_twin(outputs: torch.Tensor, i: int, j: int) -> float:
    total = 0.0
    for image in outputs:
        a, b = image[i].flatten().tolist(), image[j].flatten().tolist()
        dot = sum(x * y for x, y in zip(a, b, strict=True))
        total += abs(dot) / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))
    return total / len(outputs)


def cka_twin(added: torch.Tensor, i: int, j: int) -> float:
    """Through the Gram matrices of the tokens: <K, L> / (|K| |L|) with K = Y Y^T, centred."""
    total = 0.0
    for image in added:
        grams = []
        for head in (i, j):
            gram = image[head] @ image[head].T
            centre = torch.eye(len(gram), dtype=gram.dtype) - 1 / len(gram)
            grams.append((centre @ gram @ centre).flatten().tolist())
        dot, *norms = (
            sum(x * y for x, y in zip(a, b, strict=True))
            for a, b in ((grams[0], grams[1]), (grams[0], grams[0]), (grams[1], grams[1]))
        )
        total += dot / math.sqrt(norms[0] * norms[1])
    return total / len(added)


def overlap_twin(maps: torch.Tensor, i: int, j: int) -> float:
    total, rows = 0.0, 0
    for image in maps:
        for p, q in zip(image[i].tolist(), image[j].tolist(), strict=True):
            middle = [(x + y) / 2 for x, y in zip(p, q, strict=True)]
            divergence = 0.0
            for row in (p, q):
                divergence += sum(x * math.log2(x / m) for x, m in zip(row, middle, strict=True)) / 2
            total, rows = total + 1 - divergence, rows + 1
    return total / rows
