"""Rotates the embedding so that its leading channels carry the most, and keeps only those.

The idea is SliceGPT's (Ashkboos et al. 2024): where norms only divide by a root mean square, the
residual stream can be turned by any orthogonal matrix without changing what the network computes.
[ours]: one basis for the whole network, so that no block needs an adapter; and a refit, block by
block, of what reads the narrow stream and of what writes to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from analysis.measure import Batches
from analysis.vit import Architecture, ViT
from pruning.activations import Activations
from pruning.projection.block_parts import present
from pruning.projection.least_squares import Moments, Statistics
from pruning.projection.refit import reader_moments, refit_reader, refit_writer
from pruning.projection.streams import Streams, token_weights

_TOKENS = ("cls_token", "dist_token", "reg_token", "pos_embed")
_FLOOR = 0.01  # of the mean: how much a direction counts that nothing reads


def rotate(
    model: ViT,
    batches: Batches,
    embed_dim: int,
    *,
    images: int = 256,
    steered: float = 1.0,
    focus: float = 0.1,
    progress: Callable[[float], None] = lambda _: None,
    place: Path | None = None,
) -> ViT:
    """A new model with norm "rms" and an embedding of `embed_dim` channels; `model` is not changed.

    At most `images` calibration images are used, a share `steered` of them changed towards another
    class; a share `focus` of the weight goes to the tokens the classifier reads. Activations lie on
    disk, in `place` or a temporary folder, and one batch of them in memory. `progress` is told the share
    done.

    Raises:
        ValueError: a model that cannot be rotated, a width it does not have, no images, or
            activations that are not finite.
        OSError: no room for the activations.
    """
    _require_width(model.arch, embed_dim)
    parameter = next(model.parameters())
    dtype = parameter.dtype if parameter.dtype == torch.float64 else torch.float32
    dense = fold_norms(model).to(parameter.device, dtype)
    with torch.no_grad(), Activations(parameter.device, place) as stored:
        streams = Streams(stored, dense, batches, images, steered)
        seen = seen_by_norms(dense, streams, focus)
        metric = reading_metric(dense, seen)
        basis = principal_basis(
            torch.stack([second_moment(one) for one in seen.values()]).sum(dim=0), metric, embed_dim
        )
        shares = {norm: kept_energy(one, basis) for norm, one in seen.items()}
        small = project(dense, basis, shares)
        _compensate(dense, small, streams, basis, shares, focus, progress)
    return small.to(parameter).train(model.training).requires_grad_(True)


def fold_norms(model: ViT) -> ViT:
    """The same function with norms that only divide by the root mean square, in float64.

    LayerNorm subtracts each token's mean over the channels: done once to everything that is written
    to the stream (patches, tokens, `proj`, `fc2`), it has no effect any more. Gain and bias go into
    what reads (`qkv`, `fc1`, the heads), LayerScale into what is written.

    Raises:
        ValueError: a norm in front of the blocks, or no classifier.
    """
    _require_foldable(model.arch)
    arch = _folded(model.arch)
    folded = ViT(arch).to(next(model.parameters()).device, torch.float64)
    state = {name: value.detach().double() for name, value in model.state_dict().items()}
    for name, norm in _readers(arch):
        weight, shift = state[f"{name}.weight"], state.get(f"{norm}.bias")
        bias = state.get(f"{name}.bias", weight.new_zeros(len(weight)))
        state[f"{name}.weight"] = weight * state[f"{norm}.weight"]
        state[f"{name}.bias"] = bias if shift is None else bias + weight @ shift
    for name in [name for name in state if name.endswith(".gamma")]:
        gain, layer = state.pop(name), name.replace("ls1.gamma", "attn.proj").replace("ls2.gamma", "mlp.fc2")
        state[f"{layer}.weight"] = gain[:, None] * state[f"{layer}.weight"]
        state[f"{layer}.bias"] = gain * state[f"{layer}.bias"]
    if model.arch.norm == "layer":
        _map_written(state, torch.eye(arch.embed_dim).to(model.pos_embed).double() - 1 / arch.embed_dim)
    _fill(folded, state)
    return folded


def project(dense: ViT, basis: Float[Tensor, "E K"], shares: Mapping[str, float] | None = None) -> ViT:
    """A folded model on the K orthonormal columns of `basis`; on E of them it computes the same.

    A norm now divides by the root mean square over fewer channels, which hold a share of the energy
    that `shares` gives by the norm's name (without them: all of it). The factor this makes goes
    into what reads, and epsilon grows by E / K.
    """
    kept = basis.shape[1]
    arch = _narrower(dense.arch, kept)
    state = {name: value.double() for name, value in dense.state_dict().items()}
    _map_written(state, basis)
    for name, norm in _readers(arch):
        factor = _factor(shares[norm] if shares else 1.0, basis)
        state[f"{name}.weight"] = factor * state[f"{name}.weight"] @ basis
    small = ViT(arch).to(dense.pos_embed)
    _fill(small, state)
    return small


def seen_by_norms(dense: ViT, streams: Streams, focus: float) -> dict[str, Statistics]:
    """Means and covariances of each norm's output in a folded model, by the norm's name."""
    arch = dense.arch
    moments = [Moments(arch.embed_dim, 0, streams.device) for _ in _norms(arch)]
    weights = [token_weights(arch, index, focus).to(streams.device) for index in range(arch.depth)]
    for _, embedded, _ in streams:
        x = embedded
        for place, (number, half) in enumerate(present(dense)):
            z = half.norm(x)
            moments[place].add(z, z[..., :0], weights[number // 2])
            x = half.through(x)
        z = read_out(dense, x)
        moments[-1].add(z, z[..., :0], torch.ones_like(z[0, :, 0]))
    return {norm: one.statistics() for norm, one in zip(_norms(arch), moments, strict=True)}


def principal_basis(
    covariance: Float[Tensor, "E E"], metric: Float[Tensor, "E E"], keep: int
) -> Float[Tensor, "E keep"]:
    """Orthonormal columns Q that span the x' of that rank with the least E (x - x')^T metric (x - x').

    With R R = metric these are R^-1 times the leading eigenvectors of R covariance R (Eckart, Young
    1936), made orthonormal. With the identity as metric they are the principal components.
    """
    values, vectors = torch.linalg.eigh(metric)
    root = vectors * values.clamp_min(torch.finfo(values.dtype).tiny).sqrt() @ vectors.T
    _, leading = torch.linalg.eigh(root @ covariance @ root)
    return torch.linalg.qr(torch.linalg.solve(root, leading.flip(1)[:, :keep]))[0]


def reading_metric(dense: ViT, seen: Mapping[str, Statistics]) -> Float[Tensor, "E E"]:
    """How much an error in each direction of the stream is read: each reader's relative to its output.

    A little is added everywhere, for what a norm divides by [ours].
    """
    metric = torch.zeros(dense.arch.embed_dim, dense.arch.embed_dim).to(dense.pos_embed).double()
    for name, norm in _readers(dense.arch):
        weight = dense.get_parameter(f"{name}.weight").double()
        gram = weight.T @ weight
        output = (gram * second_moment(seen[norm])).sum()  # mean square of what it gives, without bias
        metric += gram / output.clamp_min(torch.finfo(output.dtype).tiny)
    return metric + _FLOOR * metric.diagonal().mean() * torch.eye(len(metric)).to(metric)


def second_moment(seen: Statistics) -> Float[Tensor, "E E"]:
    """About zero, not about the mean."""
    return seen.covariance + torch.outer(seen.mean_in, seen.mean_in)


def kept_energy(seen: Statistics, basis: Float[Tensor, "E K"]) -> float:
    """Share of the mean square of a norm's outputs that lies in the span of `basis`."""
    moment = second_moment(seen)
    return float((moment @ basis * basis).sum() / moment.trace())


def read_out(model: ViT, x: Float[Tensor, "B N E"]) -> Float[Tensor, "B T E"]:
    """What the heads are given: one token, two of a distilled model."""
    x = model.norm(x)
    if model.arch.pool == "token":
        return model.fc_norm(x[:, : 1 + model.arch.distilled])
    return model.fc_norm(x[:, len(model.arch.prefix_names) :].mean(dim=1, keepdim=True))


def _compensate(
    dense: ViT,
    small: ViT,
    streams: Streams,
    basis: Tensor,
    shares: Mapping[str, float],
    focus: float,
    progress: Callable[[float], None],
) -> None:
    """Refit what reads and what writes, in order, on the activations of the model as refitted so far."""

    def onto(x: Float[Tensor, "B N E"]) -> Float[Tensor, "B N K"]:
        return x @ basis.to(x)

    for number, _, x in streams:
        streams.write(number, pruned=onto(x))
    norms, widths = iter(_norms(dense.arch)), (small.arch.embed_dim, dense.arch.embed_dim)
    for (number, wide), (_, thin) in zip(present(dense), present(small), strict=True):
        weights = token_weights(dense.arch, number // 2, focus).to(streams.device)
        moments = reader_moments(streams, weights, wide.norm, thin.norm, widths)
        refit_reader(wide.reader, thin.reader, moments, _factor(shares[next(norms)], basis) * basis)
        refit_writer(wide, thin, streams, weights, onto)
        progress((number + 1) / (2 * dense.arch.depth))
    _refit_heads(dense, small, streams, _factor(shares[next(norms)], basis) * basis)


def _refit_heads(dense: ViT, small: ViT, streams: Streams, prior: Float[Tensor, "E K"]) -> None:
    alike = torch.ones(1 + dense.arch.distilled if dense.arch.pool == "token" else 1, device=streams.device)
    before, after = partial(read_out, dense), partial(read_out, small)
    widths = small.arch.embed_dim, dense.arch.embed_dim
    moments = reader_moments(streams, alike, before, after, widths)
    for name in ("head", "head_dist")[: 1 + dense.arch.distilled]:
        refit_reader(_linear(dense, name), _linear(small, name), moments, prior)


def _linear(module: nn.Module, name: str) -> nn.Linear:
    return cast(nn.Linear, module.get_submodule(name))


def _factor(share: float, basis: Float[Tensor, "E K"]) -> float:
    """Root mean square over the kept channels, in units of that over all."""
    return (share * basis.shape[0] / basis.shape[1]) ** 0.5


def _readers(arch: Architecture) -> Iterator[tuple[str, str]]:
    """Layers that read the stream, each with the norm before it."""
    for index, widths in enumerate(arch.blocks):
        if widths.heads:
            yield f"blocks.{index}.attn.qkv", f"blocks.{index}.norm1"
        if widths.mlp:
            yield f"blocks.{index}.mlp.fc1", f"blocks.{index}.norm2"
    for name in ("head", "head_dist")[: 1 + arch.distilled]:
        yield name, "norm" if arch.norm_before_pool else "fc_norm"


def _norms(arch: Architecture) -> tuple[str, ...]:
    """Names of the norms, in order."""
    return tuple(dict.fromkeys(norm for _, norm in _readers(arch)))


def _map_written(state: dict[str, Tensor], matrix: Float[Tensor, "E K"]) -> None:
    """Pass all that is written to the stream through a matrix: tokens, patches, `proj`, `fc2`."""
    for name, value in state.items():
        if name in _TOKENS:
            state[name] = value @ matrix
        elif ".proj." in name or ".fc2." in name:
            state[name] = torch.tensordot(matrix, value, dims=([0], [0]))


def _fill(model: ViT, state: dict[str, Tensor]) -> None:
    """Load weights into a model whose norms have gains of one; nothing of it is to be trained."""
    weights = {name: value for name, value in state.items() if "norm" not in name}
    for name, value in model.state_dict().items():
        if "norm" in name:
            weights[name] = torch.ones_like(value)
    model.load_state_dict(weights)
    model.eval().requires_grad_(False)


def rotated_architecture(dense: Architecture, embed_dim: int) -> Architecture:
    """What `rotate` makes of this architecture: norms without a bias among it, and no LayerScale.

    Raises:
        ValueError: a model that cannot be rotated, or a width it does not have.
    """
    _require_width(dense, embed_dim)
    return _narrower(_folded(dense), embed_dim)


def _folded(arch: Architecture) -> Architecture:
    return replace(arch, norm="rms", qkv_bias=True, layer_scale=False)


def _narrower(arch: Architecture, embed_dim: int) -> Architecture:
    return replace(arch, embed_dim=embed_dim, norm_eps=arch.norm_eps * arch.embed_dim / embed_dim)


def _require_foldable(arch: Architecture) -> None:
    if arch.pre_norm or arch.patch_norm:
        raise ValueError(
            "the embedding of a model with a norm in front of its blocks (pre_norm, patch_norm) cannot be "
            "rotated, because that norm's gain belongs to single channels; methods that choose channels work"
        )
    if arch.attn_norm or arch.mlp_norm or arch.qk_norm:
        raise ValueError(
            "the embedding of a model with norms inside of attention or MLP (attn_norm, mlp_norm, qk_norm) "
            "cannot be rotated, because all norms would become others; methods that choose channels work"
        )
    if not arch.final_norm or arch.pool not in ("token", "avg") or arch.pool_prefix:
        raise ValueError(
            "the embedding of a model can be rotated only where its classifier reads the class token or the "
            "mean of the patches behind a norm; methods that choose channels work"
        )
    if not arch.num_classes:
        raise ValueError(
            "the embedding of a model without a classifier cannot be rotated, because it is the output "
            "itself; load a model with classes"
        )


def _require_width(arch: Architecture, embed_dim: int) -> None:
    _require_foldable(arch)
    if not 1 <= embed_dim <= arch.embed_dim:
        raise ValueError(f"embed_dim must be from 1 to the model's {arch.embed_dim}, got {embed_dim}")
