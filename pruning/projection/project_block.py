"""Projecting half a block: its narrow layers filled from the whole ones and from activations.

Query-key and value channels by truncated singular value decompositions, MLP neurons by
`Elimination`; then what writes to the stream is refitted. `spectral` says in which order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from analysis.vit import Architecture, Attention, BlockWidths, Mlp
from pruning.projection.bases import (
    choose_planes,
    fit_scores,
    kept_planes,
    kept_rows,
    orthonormal,
    plane_products,
    qk_bases,
    score_importance,
    value_bases,
)
from pruning.projection.block_parts import (
    HalfBlock,
    folded,
    output,
    rows_by_head,
    set_folded,
    set_rows,
    without_proj,
)
from pruning.projection.least_squares import Moments, require_finite
from pruning.projection.neurons import Elimination
from pruning.projection.refit import Aim, aim, goal, refit, refit_reader, writer_moments
from pruning.projection.streams import Still, Streams

_SCORE_IMAGES = 64  # whose attention scores a fit looks at, all pairs of tokens of each
_SWEEPS = 4  # of that fit over queries and keys
_APART = 0.1  # of a reader's squared inputs may differ from the dense model's for it to be refitted


@dataclass(frozen=True)
class Step:
    """What projecting half a block needs: it in the dense model, without the heads that go, and narrow.

    `root` says how much errors behind this half count (`fisher.error_roots`), `pull` how far a refit
    goes back towards the dense stream. `known` is kept between steps that differ in their widths alone.
    Attention scores are fitted on at most `score_images` images, in `sweeps` over both sides.
    """

    arch: Architecture
    dense: HalfBlock
    whole: HalfBlock
    narrow: HalfBlock
    streams: Streams | Still
    weights: Float[Tensor, " N"]
    root: Float[Tensor, "E E"]
    pull: float
    known: dict[str, Any] = field(default_factory=dict)
    score_images: int = _SCORE_IMAGES
    sweeps: int = _SWEEPS

    @property
    def attn(self) -> Attention:
        """The attention that is to be narrowed, where this half is one."""
        return cast(Attention, self.whole.part)


def project_half(step: Step) -> None:
    """Fill the narrow half, and take the dense stream behind it."""
    if isinstance(step.whole.part, Attention):
        _project_attention(step)
    else:
        _project_mlp(step)


def restore_reader(step: Step) -> None:
    """Let a layer read from the pruned stream what it read from the dense one, as far as that can be told.

    Not where the streams have come far apart: the best estimate of the dense inputs is then much
    smaller than they are, and what the layer makes of it is worse than what it makes of its own.
    """
    layer = step.whole.reader
    if not step.pull or layer.bias is None:  # nowhere to put a shift
        return
    moments = Moments(layer.in_features, layer.in_features, step.streams.device)
    apart = size = 0.0
    for _, dense, x in step.streams:
        z, wanted = step.whole.norm(x), step.dense.norm(dense)
        moments.add(z, torch.lerp(z, wanted, step.pull), step.weights)
        counts = step.weights.to(z)
        apart += float(counts @ (z - wanted).square().sum(dim=(0, 2)))
        size += float(counts @ wanted.square().sum(dim=(0, 2)))
    if apart <= _APART * size:
        refit_reader(layer, layer, moments, torch.eye(layer.in_features).to(step.root))


def _project_attention(step: Step) -> None:
    attn, narrow = step.attn, cast(Attention, step.narrow.part)
    queries, keys, values = rows_by_head(attn)
    rank, rope = narrow.qk_dim, attn.rope
    if rank < attn.qk_dim and attn.rope is not None:
        planes, factors = choose_planes(_plane_products(step), rank // 2)
        queries, keys = kept_rows(queries, keys, planes, factors)
        rope = kept_planes(attn.rope, planes)
    elif rank < attn.qk_dim:
        on_q, on_k = _pair_bases(step, rank)
        queries, keys = on_q.mT @ queries, on_k.mT @ keys  # H Dqk E+1
    known = step.known if rank == attn.qk_dim else {}  # what was measured with the scores unchanged
    aimed = known["attention"] = known.get("attention") or _aim(
        step, _head_outputs(step, queries, keys, values, rope)
    )
    weight, bias = folded(step.whole.writer, step.whole.scale)
    rank, down, back = narrow.v_dim, torch.eye(weight.shape[1]).to(weight), None
    if rank < attn.v_dim:
        covariance, best = known["values"] = known.get("values") or goal(aimed)
        bases = value_bases(covariance, best, attn.heads, rank)  # H Dv (Dv of the dense model)
        down, (even, back) = torch.block_diag(*bases), orthonormal(bases)
        values = even @ values  # H Dv E+1
    set_rows(narrow.qkv, queries, keys, values)
    narrow.rope = rope
    fitted, shift = refit(aimed, down)
    fitted = fitted if back is None else fitted @ torch.block_diag(*back)
    set_folded(step.narrow.writer, step.narrow.scale, fitted, bias + shift)


def _project_mlp(step: Step) -> None:
    mlp, narrow = cast(Mlp, step.whole.part), cast(Mlp, step.narrow.part)
    weight, bias = folded(step.whole.writer, step.whole.scale)
    inner = not isinstance(mlp.norm, nn.Identity)  # it makes other inputs of fc2 out of fewer neurons
    inputs = step.whole.before_writer()
    aimed = step.known["mlp"] = step.known.get("mlp") or _aim(step, inputs, advance=not inner)
    width, whole = narrow.fc2.in_features, mlp.fc2.in_features
    kept = torch.arange(whole, device=weight.device)
    if width < whole:
        if "neurons" not in step.known:
            covariance, best = goal(aimed)
            step.known["neurons"] = Elimination(covariance, step.root @ best)
        kept = step.known["neurons"].kept(width)
    rows = torch.cat([kept, whole + kept]) if mlp.gated else kept
    narrow.fc1.weight.copy_(mlp.fc1.weight[rows])
    narrow.fc1.bias.copy_(mlp.fc1.bias[rows])
    if inner:
        for own, wide in zip(narrow.norm.parameters(), mlp.norm.parameters(), strict=True):
            own.copy_(wide[kept])
        moments = _moments(step, step.narrow.before_writer(), of=narrow.fc2)
        aimed = aim(moments, weight[:, kept], step.pull)
        kept = torch.arange(width, device=weight.device)
    fitted, shift = refit(aimed, kept)
    set_folded(step.narrow.writer, step.narrow.scale, fitted, bias + shift)


def _aim(step: Step, inputs: Callable[[Tensor], Tensor], *, advance: bool = True) -> Aim:
    """What the writer is to add, told from its inputs."""
    weight = folded(step.whole.writer, step.whole.scale)[0]
    return aim(_moments(step, inputs, advance=advance), weight, step.pull)


def _moments(
    step: Step, inputs: Callable[[Tensor], Tensor], of: nn.Linear | None = None, *, advance: bool = True
) -> Moments:
    """Moments of the writer's inputs and of what would make up the dense stream, its bias taken as given.

    `of` is the writer, the whole one where not given.
    """
    bias = folded(step.whole.writer, step.whole.scale)[1]
    missing = lambda behind, x: behind - x - bias.to(x)
    writer = of or step.whole.writer
    # without a pull nothing is asked of the dense stream, and of a still one not even that it moves
    dense = step.dense if step.pull or isinstance(step.streams, Streams) else None
    return writer_moments(step.streams, step.weights, dense, writer, inputs, missing, advance=advance)


def _head_outputs(
    step: Step, queries: Tensor, keys: Tensor, values: Tensor, rope: Tensor | None
) -> Callable[[Tensor], Tensor]:
    """A function from the stream to the heads' outputs, B N H*Dv, of attention with these rows."""
    attn, norm = step.attn, step.whole.norm
    widths = BlockWidths(attn.heads, queries.shape[1], values.shape[1], 1)
    outputs = without_proj(step.arch, attn, widths)
    outputs.rope = rope
    set_rows(outputs.qkv, queries, keys, values)
    return lambda x: output(outputs, norm(x))


def _pair_bases(step: Step, rank: int) -> tuple[Float[Tensor, "H D rank"], Float[Tensor, "H D rank"]]:
    """The closed form's bases, then fitted to the scores that matter of some images."""
    known = step.known
    if "scores" not in known:
        known["scores"] = _qk_covariances(step), _scores_that_matter(step)
    (query_moments, key_moments), heads = known["scores"]
    on_q, on_k = qk_bases(query_moments, key_moments, rank)
    for head, (query, key, importance) in enumerate(heads):
        start = on_q[head].to(query), on_k[head].to(query)
        found = fit_scores(query, key, importance, *start, step.sweeps)
        on_q[head], on_k[head] = (basis.double() for basis in found)
    return on_q, on_k


def _scores_that_matter(step: Step) -> list[tuple[Tensor, Tensor, Tensor]]:
    """For every head queries and centred keys of some images, B N D, and the importance of scores, B N N."""
    attn, found = step.attn, []
    q, k, v = _some_heads(step)
    columns = step.root @ folded(attn.proj, step.whole.scale)[0]
    columns = columns.to(q).unflatten(1, (attn.heads, -1))  # E H Dv
    maps = None if attn.position_bias is None else attn.weights(q, k)  # B H N N
    for head in range(attn.heads):
        query, key, value = q[:, head], k[:, head], v[:, head]  # B N D
        attention = attn.weights(query, key) if maps is None else maps[:, head]  # B N N
        metric = columns[:, head].T @ columns[:, head]
        importance = score_importance(attention, value, attention @ value, metric, step.weights)
        found.append((query, key - key.mean(dim=1, keepdim=True), importance))
    return found


def _qk_covariances(step: Step) -> tuple[Float[Tensor, "H D D"], Float[Tensor, "H D D"]]:
    """Second moments of queries, and of keys about their mean over the tokens of each image.

    Softmax does not see what all keys of an image have in common.
    """
    attn = step.attn
    sums = torch.zeros(2, attn.heads, attn.qk_dim, attn.qk_dim, dtype=torch.float64)
    sums = sums.to(step.streams.device)
    for _, _, x in step.streams:
        q, k, _ = attn.split_heads(attn.qkv(step.whole.norm(x)))
        q, k = q.double(), k.double()  # B H N D
        k = k - k.mean(dim=2, keepdim=True)
        sums[0] += ((q * step.weights.double()[:, None]).mT @ q).sum(dim=0)
        sums[1] += (k.mT @ k).sum(dim=0)
    require_finite(sums)
    return sums[0], sums[1]


def _plane_products(step: Step) -> Float[Tensor, "H T T"]:
    if "planes" not in step.known:
        attn, terms = step.attn, step.attn.qk_dim
        sums = torch.zeros(attn.heads, terms, terms, dtype=torch.float64, device=step.streams.device)
        for _, _, x in step.streams:
            q, k, _ = attn.split_heads(attn.qkv(step.whole.norm(x)))
            sums += plane_products(q, k, step.weights)
        require_finite(sums)
        step.known["planes"] = sums
    return step.known["planes"]


def _some_heads(step: Step) -> list[Tensor]:
    """Queries, keys and values of the first images: B H N D each."""
    attn, parts, count = step.attn, [], 0
    for _, _, x in step.streams:
        parts.append(attn.split_heads(attn.qkv(step.whole.norm(x[: step.score_images - count]))))
        count += len(parts[-1][0])
        if count == step.score_images:
            break
    return [torch.cat(part) for part in zip(*parts, strict=True)]
