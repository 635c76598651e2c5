"""What errors of the residual stream cost, against the Fisher information written out."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from analysis.outputs import divergence, kl_divergence, read_output
from analysis.vit import ViT
from pruning.activations import Activations
from pruning.projection import fisher
from pruning.projection.block_parts import output
from pruning.projection.fisher import error_roots, prediction_gradients
from pruning.projection.streams import Streams
from tests.support.models import TINY, batches, random_images, random_vit


@torch.no_grad()
def logits_with(model: ViT, images: Tensor, half: int, error: Tensor) -> Tensor:
    """Logits when `error` (B N E) is added to the stream behind a half block."""
    return model.classify(stream_with(model, images, half, error))


def stream_with(model: ViT, images: Tensor, half: int, error: Tensor) -> Tensor:
    """The stream behind the last block, then."""
    x = model.embed(images)
    parts = [((b.norm1, b.attn, b.ls1), (b.norm2, b.mlp, b.ls2)) for b in model.blocks]
    for number, (norm, part, scale) in enumerate(half for block in parts for half in block):
        assert part is not None
        x = x + scale(output(part, norm(x)))
        if number == half:
            x = x + error
    return x


def gradients(model: ViT, images: Tensor, label: int) -> tuple[Tensor, ...]:
    classes = torch.full((len(images),), label)
    return prediction_gradients(model, model.embed(images).detach(), torch.Generator(), classes)


@pytest.mark.parametrize("half", range(2 * TINY.depth))
def test_gradients_are_what_finite_differences_say(half: int) -> None:
    model, images = random_vit(TINY).double(), random_images(TINY, count=2).double()
    got, error = gradients(model, images, 1)[half], torch.zeros(2, TINY.num_tokens, TINY.embed_dim).double()
    for image, token, channel in ((0, 0, 0), (1, 0, 3), (0, 2, 1), (1, 4, 5)):
        step = error.clone()
        step[image, token, channel] = 1e-5
        up, down = (
            logits_with(model, images, half, sign * step).log_softmax(1)[image, 1] for sign in (1, -1)
        )
        torch.testing.assert_close(got[image, token, channel], (up - down) / 2e-5, atol=1e-7, rtol=1e-4)


def test_a_small_error_costs_half_its_fisher_form_in_divergence() -> None:
    model, images = random_vit(TINY).double(), random_images(TINY, count=1).double()
    error = torch.zeros(1, TINY.num_tokens, TINY.embed_dim).double()
    error[0, 0] = 1e-3 * torch.randn(TINY.embed_dim, generator=torch.Generator().manual_seed(3)).double()
    share = model(images).softmax(1)[0].detach()
    for half in range(2 * TINY.depth):
        told = sum(
            float(share[label] * (gradients(model, images, label)[half] * error).sum() ** 2 / 2)
            for label in range(TINY.num_classes)
        )
        seen = kl_divergence(model(images).detach(), logits_with(model, images, half, error))
        assert float(seen) == pytest.approx(told, rel=0.05)


def test_roots_are_those_of_the_fisher_information(monkeypatch: pytest.MonkeyPatch) -> None:
    model, few = random_vit(TINY).double(), random_images(TINY, count=2).double()
    monkeypatch.setattr(fisher, "_CHUNK", 512)
    with torch.no_grad():
        many = Streams(Activations(), model, batches(few.repeat(512, 1, 1, 1), 512), 1024, share=0)
    roots, share = error_roots(model, many, 1024), model(few).softmax(1).detach()
    for half, root in enumerate(roots):
        exact = torch.zeros(TINY.embed_dim, TINY.embed_dim).double()
        for label in range(TINY.num_classes):
            slopes = gradients(model, few, label)[half]
            for image in range(2):
                exact += share[image, label] * slopes[image].T @ slopes[image]
        exact /= exact.diagonal().mean()
        mixed = 0.9 * exact + 0.1 * torch.eye(TINY.embed_dim)
        assert float((root.T @ root - mixed).norm() / mixed.norm()) < 0.15


def weighted_directions(model: ViT, images: Tensor, half: int, error: Tensor) -> Tensor:
    """The pooled feature's direction and those of all patches, so that half the squared distance between two
    of these is the divergence."""
    found = read_output(model, stream_with(model, images, half, error))
    assert found.patches is not None
    rows = [found.vectors[:, None] / 2**0.5 / found.vectors.norm(dim=-1)[:, None, None]]
    rows += [found.patches / (2 * found.patches.shape[1]) ** 0.5 / found.patches.norm(dim=-1, keepdim=True)]
    return torch.cat(rows, dim=1).flatten()


@pytest.mark.parametrize("half", [0, 2, 3])
def test_roots_of_features_are_those_of_their_gauss_newton_matrix(
    half: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The matrix from the Jacobian, and what it says of small errors."""
    model, image = random_vit(replace(TINY, num_classes=0)).double(), random_images(TINY, count=1).double()
    monkeypatch.setattr(fisher, "_CHUNK", 512)
    with torch.no_grad():
        many = Streams(Activations(), model, batches(image.repeat(512, 1, 1, 1), 512), 512, share=0)
    root, zero = error_roots(model, many, 512)[half], torch.zeros(1, TINY.num_tokens, TINY.embed_dim).double()
    slopes = torch.autograd.functional.jacobian(lambda e: weighted_directions(model, image, half, e), zero)
    slopes = slopes.flatten(1, 2)  # outputs N E
    error = 1e-3 * torch.randn(zero.shape, generator=torch.Generator().manual_seed(3)).double()
    told = (slopes * error[0]).sum(dim=(1, 2)).square().sum() / 2
    with torch.no_grad():
        dense, moved = (read_output(model, stream_with(model, image, half, e)) for e in (zero, error))
    assert float(divergence(dense, moved)) == pytest.approx(float(told), rel=0.05)
    exact = torch.einsum("one,onf->ef", slopes, slopes)
    exact /= exact.diagonal().mean()
    mixed = 0.9 * exact + 0.1 * torch.eye(TINY.embed_dim)
    assert float((root.T @ root - mixed).norm() / mixed.norm()) < 0.15


def test_a_prediction_that_nothing_moves_leaves_all_errors_alike() -> None:
    model = random_vit(TINY)
    torch.nn.init.zeros_(model.get_parameter("head.weight"))
    with torch.no_grad():
        streams = Streams(Activations(), model, batches(random_images(TINY)), 4, share=0)
    for root in error_roots(model, streams):
        torch.testing.assert_close(root, torch.eye(TINY.embed_dim).double())
