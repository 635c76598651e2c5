"""Which directions of the residual stream the prediction listens to, behind both halves of every block."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from analysis.outputs import probe, read_output
from analysis.vit import ViT
from pruning.projection.block_parts import present
from pruning.projection.least_squares import require_finite
from pruning.projection.streams import Streams

_IMAGES = 128  # that gradients are taken of, at most
_CHUNK = 8  # images whose gradients are computed at once
_PLAIN = 0.1  # of the metric is the identity: what few gradients do not show is not free


def error_roots(model: ViT, streams: Streams, images: int = _IMAGES) -> list[Float[Tensor, "E E"]]:
    """R of every half block: an error e of the stream behind it counts |R e|^2, on average |e|^2 [ours].

    A small error e of one token costs e^T F e / 2 in divergence from the model's output, with F = E[g g^T]
    and g the gradient of a random scalar (`analysis.outputs.probe`): of logits the Fisher information.
    R^T R is F over all tokens alike, at a mean diagonal of one, mixed with a tenth of the identity.
    `streams` begin at the model's embedding; gradients are taken of the first `images`.

    Raises:
        ValueError: gradients that are not finite.
    """
    halves, width = 2 * model.arch.depth, model.arch.embed_dim
    identity = torch.eye(width, dtype=torch.float64, device=streams.device)
    sums = torch.zeros(halves, width, width, dtype=torch.float64, device=streams.device)
    generator, count = torch.Generator(streams.device).manual_seed(0), 0
    numbers = [number for number, _ in present(model)]
    for _, x, _ in streams:
        for part in x[: images - count].split(_CHUNK):
            for half, slopes in zip(numbers, prediction_gradients(model, part, generator), strict=True):
                flat = slopes.double().flatten(0, 1)
                sums[half] += flat.T @ flat
        count += len(x)
        if count >= images:
            break
    require_finite(sums)
    means = sums.diagonal(dim1=1, dim2=2).mean(dim=1)[:, None, None]
    sums = torch.where(means > 0, sums / means, identity)
    values, vectors = torch.linalg.eigh((1 - _PLAIN) * sums + _PLAIN * identity)
    return list((vectors * values.clamp_min(0).sqrt()[:, None]) @ vectors.mT)


def prediction_gradients(
    model: ViT,
    embedded: Float[Tensor, "B N E"],
    generator: torch.Generator,
    classes: Int[Tensor, " B"] | None = None,
) -> tuple[Float[Tensor, "B N E"], ...]:
    """Gradients of `analysis.outputs.probe` by the stream behind every half block that is there.

    `classes` are those of a classifier's predictions, drawn where not given.
    """
    with torch.enable_grad():
        x, behind = embedded.detach().requires_grad_(), []
        for _, half in present(model):
            x = half.through(x)
            behind.append(x)
        return torch.autograd.grad(probe(read_output(model, x), generator, classes), behind)
