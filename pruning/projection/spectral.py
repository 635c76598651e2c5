"""Spectral pruning: the best subspace instead of the best neurons, and a refit of what is left.

Needs calibration images and no training. Block by block, on the activations of the network as
already pruned: query-key and value channels by truncated singular value decompositions, MLP
neurons by `choose_neurons`, `proj` and `fc2` refitted so that the residual stream comes back to the
dense model's, and `qkv` and `fc1`, where it is still near, so that they read from it what they read
in the dense model. Errors of attention scores and of neurons count by how much the prediction minds
them (`fisher`); those of value channels count alike in all directions of the stream, which was
measured to be better. Everything here is [ours] but the tools named in the docstrings.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from analysis.measure import Batches
from analysis.vit import Architecture, Attention, Block, BlockWidths, ViT
from pruning.budget import Narrow
from pruning.options import ImageOptions, option_field
from pruning.projection.attention_fit import fit_scores, score_importance
from pruning.projection.fisher import error_roots
from pruning.projection.folded_layers import (
    folded,
    rows_by_head,
    set_folded,
    set_rows,
    through_attention,
    through_mlp,
    without_proj,
    working_copy,
)
from pruning.projection.least_squares import Moments, require_finite
from pruning.projection.neurons import choose_neurons
from pruning.projection.refit import goal, refit, refit_reader
from pruning.projection.rotation import rotate, rotated_architecture
from pruning.projection.streams import Still, Streams, token_weights
from pruning.projection.subspaces import qk_bases, value_bases

_NARROW_IMAGES = 128  # that a single block is narrowed on, to see what it loses on others
_SCORE_IMAGES = 64  # whose attention scores a fit looks at, all pairs of tokens of each
_APART = 0.1  # of a reader's squared inputs may differ from the dense model's for it to be refitted


@dataclass(frozen=True)
class SpectralOptions(ImageOptions):
    """Settings of spectral pruning."""

    images: int = option_field(256, 1, 4096, "Calibration images the activations are measured on, at most.")
    pull: int = option_field(
        100, 0, 100, "Percent of the distance to the dense model's activations that a refit makes up for."
    )
    steered: int = option_field(
        100, 0, 100, "Percent of the calibration images that are first changed towards another class."
    )
    focus: int = option_field(
        10, 0, 90, "Percent of the weight that goes to the tokens the classifier reads."
    )


def spectral(
    model: ViT,
    batches: Batches,
    target: Architecture,
    options: SpectralOptions | None = None,
    progress: Callable[[float], None] = lambda _: None,
    start: ViT | None = None,
) -> ViT:
    """A new model of `target`'s widths that comes close to `model`, which is not changed.

    Heads stay whole unless `start` is `model` cut to those that stay. For a narrower embedding the
    model is first turned and narrowed by `rotate`, which leaves norms that do not centre; then
    `batches` are read twice. Activations lie in a temporary folder, and one batch of them in memory.
    `progress` is told the share done. LayerScale is folded into the layer before.

    Raises:
        ValueError: a target that is not `model` (or `start`) with narrower query-key, value or MLP
            widths, no images, or activations that are not finite.
        OSError: no room for the activations.
    """
    options = options or SpectralOptions()
    if target.embed_dim < model.arch.embed_dim:
        turned = rotate(
            start or model,
            batches,
            target.embed_dim,
            images=options.images,
            steered=options.steered / 100,
            focus=options.focus / 100,
            progress=lambda share: progress(share / 2),
        )
        target = replace(turned.arch, blocks=target.blocks)
        return spectral(turned, batches, target, options, lambda share: progress((1 + share) / 2))
    _require_target((start or model).arch, target)
    dense, whole, depth = working_copy(model), working_copy(start or model), model.arch.depth
    small = ViT(target).to(next(dense.parameters())).eval()
    with torch.no_grad(), tempfile.TemporaryDirectory(prefix="prunescope-") as folder:
        _copy_what_stays(whole, small)
        streams = Streams(Path(folder), dense, batches, options.images, options.steered / 100)
        roots = error_roots(dense, streams)
        for index in range(depth):
            blocks = dense.blocks[index], whole.blocks[index], small.blocks[index]
            weights = _weights(model, index, options, streams)
            for half, (norm, reader, prune, through) in enumerate(_HALVES):
                root = roots[2 * index + half]
                step = _Step(model.arch, *blocks, streams, weights, root, options.pull / 100)
                _refit_reader(step, norm, reader)
                prune(step)
                streams.advance(partial(through, step.narrow))
                progress((index + (half + 1) / 2) / depth)
    return small.to(next(model.parameters())).train(model.training)


def spectral_target(dense: Architecture, widths: Architecture) -> Architecture:
    """The architecture that `spectral` makes for these widths: a narrower embedding changes the norms.

    Raises:
        ValueError: an embedding that cannot be narrowed.
    """
    if widths.embed_dim == dense.embed_dim:
        return widths
    return replace(rotated_architecture(dense, widths.embed_dim), blocks=widths.blocks)


def narrow_spectral(model: ViT, batches: Batches, options: SpectralOptions) -> Narrow:
    """Narrow single blocks of a dense model by projection; asked for blocks in rising order.

    Raises:
        ValueError: no images; from the function returned, a block before the last one asked for.
    """
    return _Narrowing(model, batches, options)


class _Narrowing:
    """A `Narrow` with the dense model's activations before the block it has come to."""

    def __init__(self, model: ViT, batches: Batches, options: SpectralOptions) -> None:
        self._model, self._options, self._reached = model, options, 0
        self._known: dict[str, Any] = {}
        self._dense = working_copy(model)
        path = Path(tempfile.mkdtemp(prefix="prunescope-"))
        weakref.finalize(self, shutil.rmtree, path, ignore_errors=True)
        with torch.no_grad():
            limit = min(options.images, _NARROW_IMAGES)
            self._streams = Streams(path, self._dense, batches, limit, options.steered / 100)
            self._roots = error_roots(self._dense, self._streams)

    @torch.no_grad()
    def __call__(self, index: int, structure: str, width: int) -> Block:
        if index < self._reached:
            raise ValueError(f"blocks come in rising order, got block {index} after {self._reached}")
        while self._reached < index:
            for number, x, _ in self._streams:
                self._streams.write(number, dense=self._dense.blocks[self._reached](x))
            self._reached, self._known = self._reached + 1, {}
        block, widths = self._dense.blocks[index], self._model.arch.blocks[index]
        alone = replace(self._model.arch, blocks=(replace(widths, **{structure: width}),))
        narrow = ViT(alone).to(next(self._dense.parameters())).eval().blocks[0]
        _copy_what_stays(block, narrow)
        mlp = structure == "mlp"
        still = Still(self._streams, partial(through_attention, block) if mlp else lambda x: x)
        weights = _weights(self._model, index, self._options, still)
        root = self._roots[2 * index + mlp]
        step = _Step(self._model.arch, block, block, narrow, still, weights, root, 0, self._known)
        (_prune_mlp if mlp else _prune_attention)(step)
        return narrow.to(next(self._model.parameters()))


def _weights(model: ViT, index: int, options: SpectralOptions, streams: Streams | Still) -> Tensor:
    weights = token_weights(model.arch, index == model.arch.depth - 1, options.focus / 100)
    return weights.to(streams.device)


def _require_target(dense: Architecture, target: Architecture) -> None:
    if replace(target, blocks=dense.blocks) != dense or target.depth != dense.depth:
        raise ValueError("the target must be the model's architecture with narrower blocks")
    for index, (before, after) in enumerate(zip(dense.blocks, target.blocks, strict=True)):
        if after.heads != before.heads:
            raise ValueError(
                "spectral pruning keeps every head: set heads to 0, or name a criterion that removes some "
                "first (heads-by)"
            )
        for name in ("qk", "v", "mlp"):
            left, width = getattr(after, name), getattr(before, name)
            if left > width:
                raise ValueError(f"cannot keep {left} of {width} in {name} of block {index}")


def _copy_what_stays(dense: nn.Module, small: nn.Module) -> None:
    own = small.state_dict()
    stays = {name: value for name, value in dense.state_dict().items() if own[name].shape == value.shape}
    small.load_state_dict(stays, strict=False)


@dataclass(frozen=True)
class _Step:
    """What pruning one block needs: the dense block, the same without the heads that go, the narrow one."""

    arch: Architecture
    dense: Block
    block: Block
    narrow: Block
    streams: Streams | Still
    weights: Float[Tensor, " N"]
    root: Float[Tensor, "E E"]  # of how much errors behind this half of the block count
    pull: float
    known: dict[str, Any] = field(default_factory=dict)  # of a block, whatever its new widths

    def moments(self, layer: nn.Linear) -> Moments:
        """Empty moments of a layer's inputs and outputs."""
        return Moments(layer.in_features, layer.out_features, self.streams.device)


def _refit_reader(step: _Step, norm: str, name: str) -> None:
    """Let a layer read from the pruned stream what it read from the dense one, as far as that can be told.

    Not where the streams have come far apart: the best estimate of the dense inputs is then much
    smaller than they are, and what the layer makes of it is worse than what it makes of its own.
    """
    layer = step.block.get_submodule(name)
    if not step.pull or not isinstance(layer, nn.Linear) or layer.bias is None:  # nowhere to put a shift
        return
    before, after = step.dense.get_submodule(norm), step.block.get_submodule(norm)
    moments = Moments(layer.in_features, layer.in_features, step.streams.device)
    apart = whole = 0.0
    for _, dense, x in step.streams:
        z, wanted = after(x), before(dense)
        moments.add(z, torch.lerp(z, wanted, step.pull), step.weights)
        counts = step.weights.to(z)
        apart += float(counts @ (z - wanted).square().sum(dim=(0, 2)))
        whole += float(counts @ wanted.square().sum(dim=(0, 2)))
    if apart <= _APART * whole:
        refit_reader(layer, layer, moments, torch.eye(layer.in_features).to(step.root))


def _prune_attention(step: _Step) -> None:
    """Fill the narrow attention, and take the dense stream behind it."""
    block, narrow = step.block, step.narrow
    queries, keys, values = rows_by_head(block.attn)
    rank = narrow.attn.qk_dim
    if rank < block.attn.qk_dim:
        on_q, on_k = _pair_bases(step, rank)
        queries, keys = on_q.mT @ queries, on_k.mT @ keys  # H Dqk E+1
    weight, bias = folded(block.attn.proj, block.ls1)
    moments = step.known.get("attention") if rank == block.attn.qk_dim else None
    moments = moments or _attention_moments(step, _head_outputs(step, queries, keys, values))
    if rank == block.attn.qk_dim:
        step.known["attention"] = moments
    rank, down = narrow.attn.v_dim, torch.eye(weight.shape[1]).to(weight)
    if rank < block.attn.v_dim:
        covariance, best = goal(moments, weight, step.pull)
        bases = value_bases(covariance, best, block.attn.heads, rank)  # H Dv (Dv of the dense model)
        values, down = bases @ values, torch.block_diag(*bases)  # H Dv E+1
    set_rows(narrow.attn.qkv, queries, keys, values)
    fitted, shift = refit(moments, weight, down, step.pull)
    set_folded(narrow.attn.proj, narrow.ls1, fitted, bias + shift)


def _prune_mlp(step: _Step) -> None:
    """Fill the narrow MLP, and take the dense stream behind it."""
    block, narrow = step.block, step.narrow
    fc1, fc2 = block.mlp.fc1, block.mlp.fc2
    weight, bias = folded(fc2, block.ls2)
    moments = step.known["mlp"] = step.known.get("mlp") or _mlp_moments(step)
    width, kept = narrow.mlp.fc1.out_features, torch.arange(fc1.out_features, device=weight.device)
    if width < fc1.out_features:
        covariance, best = goal(moments, weight, step.pull)
        kept = choose_neurons(covariance, step.root @ best, width)
    narrow.mlp.fc1.weight.copy_(fc1.weight[kept])
    narrow.mlp.fc1.bias.copy_(fc1.bias[kept])
    fitted, shift = refit(moments, weight, kept, step.pull)
    set_folded(narrow.mlp.fc2, narrow.ls2, fitted, bias + shift)


def _qk_covariances(step: _Step) -> tuple[Float[Tensor, "H D D"], Float[Tensor, "H D D"]]:
    """Second moments of queries, and of keys about their mean over the tokens of each image.

    Softmax does not see what all keys of an image have in common.
    """
    attn = step.block.attn
    sums = torch.zeros(2, attn.heads, attn.qk_dim, attn.qk_dim, dtype=torch.float64)
    sums = sums.to(step.streams.device)
    for _, _, x in step.streams:
        q, k, _ = attn.split_heads(attn.qkv(step.block.norm1(x)))
        q, k = q.double(), k.double()  # B H N D
        k = k - k.mean(dim=2, keepdim=True)
        sums[0] += ((q * step.weights.double()[:, None]).mT @ q).sum(dim=0)
        sums[1] += (k.mT @ k).sum(dim=0)
    require_finite(sums)
    return sums[0], sums[1]


def _pair_bases(step: _Step, rank: int) -> tuple[Float[Tensor, "H D rank"], Float[Tensor, "H D rank"]]:
    """The closed form's bases, then fitted to the scores that matter of some images."""
    attn, known = step.block.attn, step.known
    if "queries and keys" not in known:
        known["queries and keys"] = _qk_covariances(step), _some_heads(step)
    (query_moments, key_moments), (q, k, v) = known["queries and keys"]
    on_q, on_k = qk_bases(query_moments, key_moments, rank)
    columns = step.root @ folded(attn.proj, step.block.ls1)[0]
    columns = columns.to(q).unflatten(1, (attn.heads, -1))  # E H Dv
    for head in range(attn.heads):
        query, key, value = q[:, head], k[:, head], v[:, head]  # B N D
        attention = attn.weights(query, key)  # B N N
        metric = columns[:, head].T @ columns[:, head]
        importance = score_importance(attention, value, attention @ value, metric, step.weights)
        key = key - key.mean(dim=1, keepdim=True)
        found = fit_scores(query, key, importance, on_q[head].to(query), on_k[head].to(query))
        on_q[head], on_k[head] = (basis.double() for basis in found)
    return on_q, on_k


def _some_heads(step: _Step) -> list[Tensor]:
    """Queries, keys and values of the first images: B H N D each."""
    attn, parts, count = step.block.attn, [], 0
    for _, _, x in step.streams:
        parts.append(attn.split_heads(attn.qkv(step.block.norm1(x[: _SCORE_IMAGES - count]))))
        count += len(parts[-1][0])
        if count == _SCORE_IMAGES:
            break
    return [torch.cat(part) for part in zip(*parts, strict=True)]


def _head_outputs(step: _Step, queries: Tensor, keys: Tensor, values: Tensor) -> Attention:
    """Attention with these rows that ends before `proj`: B N E -> B N H*Dv."""
    attn, arch = step.block.attn, step.arch
    widths = BlockWidths(attn.heads, queries.shape[1], values.shape[1], 1)
    outputs = without_proj(arch, widths).to(attn.qkv.weight)
    set_rows(outputs.qkv, queries, keys, values)
    return outputs


def _attention_moments(step: _Step, outputs: Attention) -> Moments:
    """Moments of the heads' outputs and of what would make up the dense stream; moves the latter on.

    The bias of `proj` is taken as given.
    """
    block, moments = step.block, step.moments(step.block.attn.proj)
    bias = folded(block.attn.proj, block.ls1)[1]
    for number, dense, x in step.streams:
        z = outputs(block.norm1(x))  # B N H*Dv
        after = through_attention(step.dense, dense)
        moments.add(z, after - x - bias.to(x), step.weights)
        step.streams.write(number, dense=after)
    return moments


def _mlp_moments(step: _Step) -> Moments:
    """The same of the MLP's activations."""
    block, moments = step.block, step.moments(step.block.mlp.fc2)
    bias = folded(block.mlp.fc2, block.ls2)[1]
    for number, dense, x in step.streams:
        z = block.mlp.act(block.mlp.fc1(block.norm2(x)))  # B N F
        after = through_mlp(step.dense, dense)
        moments.add(z, after - x - bias.to(x), step.weights)
        step.streams.write(number, dense=after)
    return moments


# the norm and the reader of each half of a block, how it is pruned, and the stream's way through it
_HALVES = (
    ("norm1", "attn.qkv", _prune_attention, through_attention),
    ("norm2", "mlp.fc1", _prune_mlp, through_mlp),
)
