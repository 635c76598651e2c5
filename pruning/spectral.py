"""Spectral pruning: the best subspace instead of the best neurons, and a refit of what is left.

Needs calibration images and no training. Block by block, on the activations of the network as
already pruned: query-key and value channels by truncated singular value decompositions, MLP
neurons by `choose_neurons`, and `proj` and `fc2` refitted so that the residual stream comes back
to the dense model's. Everything here is [ours] but the tools named in the docstrings.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from analysis.evaluate import Batches
from analysis.vit import Architecture, Attention, Block, BlockWidths, LayerScale, ViT
from pruning.calibration import Streams, token_weights
from pruning.options import Options, option_field
from pruning.regression import (
    Moments,
    Statistics,
    choose_neurons,
    regularised,
    require_finite,
    ridge_held_out,
)

_JITTER = 1e-9  # of the mean variance, so that channels that never vary have a root to divide by
_LOCAL = 1e-3  # strength of the ridge by which kept neurons stand in for the removed ones
_SWEEPS = 2  # over the heads of a block, each improved with the others in view


@dataclass(frozen=True)
class SpectralOptions(Options):
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
) -> ViT:
    """A new model of `target`'s widths that comes close to `model`, which is not changed.

    Heads and residual stream stay whole. Activations lie in a temporary folder, and one batch of
    them in memory. `progress` is told the share done. LayerScale is folded into the layer before.

    Raises:
        ValueError: a target that is not `model` with narrower query-key, value or MLP widths, no
            images, or activations that are not finite.
        OSError: no room for the activations.
    """
    options = options or SpectralOptions()
    _require_target(model.arch, target)
    dense, depth = _working_copy(model), model.arch.depth
    small = ViT(target).to(next(dense.parameters())).eval()
    with torch.no_grad(), tempfile.TemporaryDirectory(prefix="prunescope-") as folder:
        _copy_what_stays(dense, small)
        streams = Streams(Path(folder), dense, batches, options.images, options.steered / 100)
        for index, (block, narrow) in enumerate(zip(dense.blocks, small.blocks, strict=True)):
            weights = token_weights(model.arch, index == depth - 1, options.focus / 100)
            weights = weights.to(streams.device)
            step = _Step(model.arch, block, narrow, streams, weights, options.pull / 100)
            _prune_attention(step)
            progress((index + 0.5) / depth)
            _prune_mlp(step)
            progress((index + 1) / depth)
    return small.to(next(model.parameters())).train(model.training)


def _require_target(dense: Architecture, target: Architecture) -> None:
    keeps = "spectral pruning keeps {0}: set {1} to 0, or use method snp to remove {2}"
    if target.embed_dim != dense.embed_dim:
        raise ValueError(keeps.format("the whole residual stream", "embed", "channels of it"))
    if replace(target, blocks=dense.blocks) != dense or target.depth != dense.depth:
        raise ValueError("the target must be the model's architecture with narrower blocks")
    for index, (before, after) in enumerate(zip(dense.blocks, target.blocks, strict=True)):
        if after.heads != before.heads:
            raise ValueError(keeps.format("every head", "heads", "heads"))
        for name in ("qk", "v", "mlp"):
            left, width = getattr(after, name), getattr(before, name)
            if left > width:
                raise ValueError(f"cannot keep {left} of {width} in {name} of block {index}")


def _working_copy(model: ViT) -> ViT:
    """A copy without hooks, in evaluation mode, and in float32 at least."""
    parameter = next(model.parameters())
    copy = ViT(model.arch)
    copy.load_state_dict(model.state_dict())
    dtype = parameter.dtype if parameter.dtype == torch.float64 else torch.float32
    return copy.to(parameter.device, dtype).eval().requires_grad_(False)


def _copy_what_stays(dense: ViT, small: ViT) -> None:
    stays = {
        name: value
        for name, value in dense.state_dict().items()
        if small.state_dict()[name].shape == value.shape
    }
    small.load_state_dict(stays, strict=False)


@dataclass(frozen=True)
class _Step:
    """What pruning one block needs: dense and pruned block, activations, token weights, pull."""

    arch: Architecture
    block: Block
    narrow: Block
    streams: Streams
    weights: Float[Tensor, " N"]
    pull: float

    def moments(self, layer: nn.Linear) -> Moments:
        """Empty moments of a layer's inputs and outputs."""
        return Moments(layer.in_features, layer.out_features, self.streams.device)


def _prune_attention(step: _Step) -> None:
    """Fill the narrow attention, and take both streams behind it."""
    block, narrow = step.block, step.narrow
    queries, keys, values = _rows_by_head(block.attn)
    rank = narrow.attn.qk_dim
    if rank < block.attn.qk_dim:
        on_q, on_k = qk_bases(*_qk_covariances(step), rank)
        queries, keys = on_q.mT @ queries, on_k.mT @ keys  # H Dqk E+1
    weight, bias = _folded(block.attn.proj, block.ls1)
    moments = _attention_moments(step, _head_outputs(step, queries, keys, values))
    rank, down = narrow.attn.v_dim, torch.eye(weight.shape[1]).to(weight)
    if rank < block.attn.v_dim:
        bases = value_bases(*_goal(moments, weight), block.attn.heads, rank)  # H Dv (Dv of the dense model)
        values, down = bases @ values, torch.block_diag(*bases)  # H Dv E+1
    _set_rows(narrow.attn.qkv, queries, keys, values)
    fitted, shift = _refit(moments, weight, down)
    _set_folded(narrow.attn.proj, narrow.ls1, fitted, bias + shift)
    for number, _, x in step.streams:
        step.streams.write(number, pruned=x + narrow.ls1(narrow.attn(narrow.norm1(x))))


def _prune_mlp(step: _Step) -> None:
    """Fill the narrow MLP, and take both streams behind it."""
    block, narrow = step.block, step.narrow
    fc1, fc2 = block.mlp.fc1, block.mlp.fc2
    weight, bias = _folded(fc2, block.ls2)
    moments = _mlp_moments(step)
    width, kept = narrow.mlp.fc1.out_features, torch.arange(fc1.out_features, device=weight.device)
    if width < fc1.out_features:
        kept = choose_neurons(*_goal(moments, weight), width)
    narrow.mlp.fc1.weight.copy_(fc1.weight[kept])
    narrow.mlp.fc1.bias.copy_(fc1.bias[kept])
    fitted, shift = _refit(moments, weight, torch.eye(len(weight.T)).to(weight)[kept])
    _set_folded(narrow.mlp.fc2, narrow.ls2, fitted, bias + shift)
    for number, _, x in step.streams:
        step.streams.write(number, pruned=x + narrow.ls2(narrow.mlp(narrow.norm2(x))))


def _goal(moments: Moments, weight: Float[Tensor, "E I"]) -> tuple[Tensor, Float[Tensor, "E I"]]:
    """Covariance of a layer's inputs, regularised, and the weight that would be best with all of them."""
    whole, halves = _towards(moments, weight)
    best, strength = ridge_held_out(whole, halves, weight)
    return regularised(whole.covariance, min(strength, _LOCAL)), best


def _refit(
    moments: Moments, weight: Float[Tensor, "E I"], down: Float[Tensor, "K I"]
) -> tuple[Float[Tensor, "E K"], Float[Tensor, " E"]]:
    """Weight on the new channels `down` z and what to add to the bias.

    Least squares shrunk towards the local solution, which stands in for weight z alone.
    """
    whole, halves = _towards(moments, weight)
    covariance = regularised(whole.covariance, _LOCAL)
    local = torch.linalg.solve(down @ covariance @ down.T, down @ covariance @ weight.T).T
    whole = whole.through(down)
    if halves is not None:
        halves = halves[0].through(down), halves[1].through(down)
    fitted, _ = ridge_held_out(whole, halves, local)
    return fitted, whole.mean_out - fitted @ whole.mean_in


def _towards(moments: Moments, weight: Tensor) -> tuple[Statistics, tuple[Statistics, Statistics] | None]:
    """Statistics whose outputs are weight z and the gap, of all images and of the halves."""
    halves = moments.halves()
    if halves is not None:
        halves = halves[0].plus(weight), halves[1].plus(weight)
    return moments.statistics().plus(weight), halves


def qk_bases(
    query: Float[Tensor, "H D D"], key: Float[Tensor, "H D D"], rank: int
) -> tuple[Float[Tensor, "H D rank"], Float[Tensor, "H D rank"]]:
    """A and B of the best q^T A B^T k in expected squared error from q^T k, drawn independently.

    With second moments Lq Lq^T of the queries and Lk Lk^T of the keys, and Lq^T Lk = U S V^T:
    A = Lq^-T U_r S_r^1/2, B = Lk^-T V_r S_r^1/2 (Eckart, Young 1936).
    """
    roots = _root(query), _root(key)
    u, s, vh = torch.linalg.svd(roots[0].mT @ roots[1])
    scale = s[:, None, :rank].sqrt()
    on_q, on_k = u[..., :rank] * scale, vh[:, :rank].mT * scale
    return torch.linalg.solve(roots[0].mT, on_q), torch.linalg.solve(roots[1].mT, on_k)


def value_bases(
    covariance: Float[Tensor, "I I"], weight: Float[Tensor, "E I"], heads: int, rank: int
) -> Float[Tensor, "H rank D"]:
    """For each head the channels from which weight z is predicted best, z being all heads' outputs.

    Starts from each head's own truncation and improves head by head, what the other heads'
    channels explain taken out of both sides: reduced-rank regression (Izenman 1975) in turns.
    """
    width = len(covariance) // heads
    own = [slice(head * width, (head + 1) * width) for head in range(heads)]
    bases = torch.stack([truncate(covariance[part, part], weight[:, part], rank) for part in own])
    cross = covariance @ weight.T  # I E
    for head in list(range(heads)) * (_SWEEPS if heads > 1 else 0):
        part = own[head]
        others = torch.block_diag(*bases)
        others = torch.cat([others[: head * rank], others[(head + 1) * rank :]])
        on_others = others @ covariance  # what they share with every output
        explained = torch.linalg.solve(on_others @ others.T, on_others[:, part]).T
        inner = covariance[part, part] - explained @ on_others[:, part]
        outer = cross[part] - explained @ (others @ cross)
        bases[head] = truncate(inner, torch.linalg.solve(inner, outer).T, rank)
    return bases


def truncate(
    covariance: Float[Tensor, "D D"], weight: Float[Tensor, "E D"], rank: int
) -> Float[Tensor, "rank D"]:
    """The channels T z from which weight z is predicted best: T = V_r^T L^-1 with weight L = U S V^T.

    L L^T is the covariance of z. The squared error is the sum of the dropped S_i^2 (Eckart, Young).
    """
    root = _root(covariance)
    _, _, vh = torch.linalg.svd(weight @ root, full_matrices=len(weight) < rank)
    return torch.linalg.solve(root.mT, vh[:rank].mT).mT


def _root(covariance: Float[Tensor, "*H D D"]) -> Float[Tensor, "*H D D"]:
    """A Cholesky factor, also of a covariance with empty directions, or nothing but those."""
    variance = covariance.diagonal(dim1=-2, dim2=-1).mean(dim=-1)[..., None, None]
    jitter = torch.where(variance > 0, _JITTER * variance, 1.0)
    return torch.linalg.cholesky(covariance + jitter * torch.eye(covariance.shape[-1]).to(covariance))


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


def _head_outputs(step: _Step, queries: Tensor, keys: Tensor, values: Tensor) -> Attention:
    """Attention with these rows that ends before `proj`: B N E -> B N H*Dv."""
    attn, arch = step.block.attn, step.arch
    widths = BlockWidths(attn.heads, queries.shape[1], values.shape[1], 1)
    outputs = Attention(arch, widths).to(attn.qkv.weight)
    outputs.proj = nn.Identity()  # type: ignore[assignment]
    _set_rows(outputs.qkv, queries, keys, values)
    return outputs


def _attention_moments(step: _Step, outputs: Attention) -> Moments:
    """Moments of the heads' outputs and of what is missing to the dense stream; moves the latter on."""
    block, moments = step.block, step.moments(step.block.attn.proj)
    for number, dense, x in step.streams:
        z = outputs(block.norm1(x))  # B N H*Dv
        after = dense + block.ls1(block.attn(block.norm1(dense)))
        gap = after - x - block.ls1(block.attn.proj(z))
        moments.add(z, step.pull * gap, step.weights)
        step.streams.write(number, dense=after)
    return moments


def _mlp_moments(step: _Step) -> Moments:
    """The same of the MLP's activations."""
    block, moments = step.block, step.moments(step.block.mlp.fc2)
    for number, dense, x in step.streams:
        z = block.mlp.act(block.mlp.fc1(block.norm2(x)))  # B N F
        after = dense + block.ls2(block.mlp(block.norm2(dense)))
        gap = after - x - block.ls2(block.mlp.fc2(z))
        moments.add(z, step.pull * gap, step.weights)
        step.streams.write(number, dense=after)
    return moments


def _rows_by_head(attn: Attention) -> tuple[Tensor, Tensor, Tensor]:
    """Weights with their biases as a last column: queries and keys H Dqk E+1, values H Dv E+1."""
    layer = attn.qkv
    bias = layer.bias if layer.bias is not None else layer.weight.new_zeros(layer.out_features)
    rows = torch.cat([layer.weight, bias[:, None]], dim=1).double()
    q, k, v = (part.unflatten(0, (attn.heads, -1)) for part in rows.split(attn.qkv_rows))
    return q, k, v


def _set_rows(layer: nn.Linear, queries: Tensor, keys: Tensor, values: Tensor) -> None:
    rows = torch.cat([part.flatten(0, 1) for part in (queries, keys, values)])
    layer.weight.copy_(rows[:, :-1])
    if layer.bias is not None:  # without one the last column is zero, and stays so under any basis
        layer.bias.copy_(rows[:, -1])


def _folded(layer: nn.Linear, behind: nn.Module) -> tuple[Float[Tensor, "E I"], Float[Tensor, " E"]]:
    """Weight and bias of a layer together with the LayerScale behind it."""
    weight, bias = layer.weight.double(), layer.bias.double()
    if isinstance(behind, LayerScale):
        return behind.gamma.double()[:, None] * weight, behind.gamma.double() * bias
    return weight, bias


def _set_folded(layer: nn.Linear, behind: nn.Module, weight: Tensor, bias: Tensor) -> None:
    """Set both, and LayerScale to one: dividing by its factors would fail where one is near zero."""
    layer.weight.copy_(weight)
    layer.bias.copy_(bias)
    if isinstance(behind, LayerScale):
        behind.gamma.fill_(1)
