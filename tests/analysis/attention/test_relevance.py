"""Relevance and gradient rollout against autograd on attention matrices formed by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from analysis.attention.relevance import classifiers_of, gradients, readout
from analysis.attention.trace import mean_of_patches, one_token
from analysis.vit import ViT
from tests.support.models import TINY, VARIANTS, random_images, random_vit

WITH_CLASSES = [name for name, arch in VARIANTS.items() if arch.num_classes]
LABEL = 4


def slopes(model: ViT, image: Tensor, label: int, classifier: str) -> list[tuple[Tensor, Tensor]]:
    """Twin: every block's attention maps H N N, formed head by head, and the logit's gradient by them."""
    x, maps = model.embed(image[None])[0], []
    for block, widths in zip(model.blocks, model.arch.blocks, strict=True):
        rows = block.attn.qkv(block.norm1(x))
        heads, qk, v = widths.heads, widths.qk, widths.v
        outputs = []
        for head in range(heads):
            queries = rows[:, head * qk : (head + 1) * qk]
            keys = rows[:, (heads + head) * qk : (heads + head + 1) * qk]
            values = rows[:, 2 * heads * qk + head * v : 2 * heads * qk + (head + 1) * v]
            scores = model.arch.scale * queries @ keys.T
            attention = scores.exp() / scores.exp().sum(dim=1, keepdim=True)
            attention.retain_grad()
            maps.append(attention)
            outputs.append(attention @ values)
        x = x + block.ls1(block.attn.proj(torch.cat(outputs, dim=1)))
        x = x + block.ls2(block.mlp(block.norm2(x)))
    x = model.norm(x)
    if classifier == "mean":
        pooled = x[0] if model.arch.pool == "token" else x[len(model.arch.prefix_names) :].mean(dim=0)
        logits = model.head(model.fc_norm(pooled))
        if model.head_dist is not None:
            logits = (logits + model.head_dist(x[1])) / 2
    else:
        reader, token = (model.head, 0) if classifier == "class" else (model.head_dist, 1)
        assert reader is not None
        logits = reader(x[token])
    model.zero_grad()
    logits[label].backward()
    found, counts = iter(maps), [widths.heads for widths in model.arch.blocks]
    pairs = [[next(found) for _ in range(count)] for count in counts]
    return [(torch.stack(b).detach(), torch.stack([a.grad for a in b])) for b in pairs]


def relevance_twin(pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Chefer's rule, entry by entry; N N, with the identity."""
    n = pairs[0][0].shape[-1]
    total = torch.eye(n)
    for attention, slope in pairs:
        step = torch.zeros(n, n)
        for head in range(len(attention)):
            for i in range(n):
                for j in range(n):
                    step[i, j] += max(0.0, float(attention[head, i, j] * slope[head, i, j])) / len(attention)
        total = total + step @ total
    return total


def rollout_twin(pairs: list[tuple[Tensor, Tensor]], discard: float, prefix: int) -> Tensor:
    """Gradient rollout, entry by entry; N N."""
    n = pairs[0][0].shape[-1]
    total = torch.eye(n)
    for attention, slope in pairs:
        step = torch.zeros(n, n)
        for i in range(n):
            for j in range(n):
                heads = [float(a[i, j] * d[i, j]) for a, d in zip(attention, slope, strict=True)]
                step[i, j] = max(0.0, sum(heads) / len(heads))
            droppable = sorted(range(prefix, n), key=lambda j: float(step[i, j]))
            for j in droppable[: int(discard * (n - prefix))]:
                step[i, j] = 0.0
            step[i, i] += 1
            step[i] /= step[i].sum()
        total = step @ total
    return total


@pytest.mark.parametrize("name", WITH_CLASSES)
def test_equals_the_slow_twins(name: str) -> None:
    model = random_vit(VARIANTS[name])
    image = random_images(model.arch)[0]
    everywhere, prefix = torch.eye(model.arch.num_tokens), len(model.arch.prefix_names)
    for classifier in classifiers_of(model.arch):
        pairs = slopes(model, image, LABEL, classifier)
        found = gradients(model, image, LABEL, classifier)
        expected = relevance_twin(pairs) - everywhere
        assert float(expected.abs().max()) > 1e-3
        torch.testing.assert_close(found.relevance(everywhere), expected, rtol=1e-3, atol=1e-5)
        for discard in (0.0, 0.5):
            expected = rollout_twin(pairs, discard, prefix)
            torch.testing.assert_close(found.rollout(everywhere, discard), expected, rtol=1e-3, atol=1e-5)


def test_any_reading_is_a_mean_of_rows() -> None:
    model = random_vit(VARIANTS["registers"])
    found = gradients(model, random_images(model.arch)[1], 2)
    whole, read = (
        torch.eye(model.arch.num_tokens),
        torch.stack([one_token(model.arch, 1), mean_of_patches(model.arch)]),
    )
    torch.testing.assert_close(found.relevance(read), read @ found.relevance(whole))
    torch.testing.assert_close(found.rollout(read, 0.3), read @ found.rollout(whole, 0.3))
    torch.testing.assert_close(found.rollout(whole, 0.3).sum(-1), torch.ones(len(whole)))


def test_maps_lie_as_the_patches_do() -> None:
    model = random_vit(TINY)
    found = gradients(model, random_images(model.arch)[0], 1)
    values = found.relevance(readout(model.arch)[None])[0]
    shown = found.map(values)
    assert shown.shape == (2, 3)
    assert float(shown[1, 2]) == float(values[1 + 3 + 2])


@pytest.mark.parametrize(
    ("name", "classifier", "tokens"),
    [
        ("plain", "mean", {0: 1.0}),
        ("distilled", "mean", {0: 0.5, 1: 0.5}),
        ("distilled", "class", {0: 1.0}),
        ("distilled", "distillation", {1: 1.0}),
        ("no class token", "mean", dict.fromkeys(range(6), 1 / 6)),
        ("average pool", "mean", dict.fromkeys(range(1, 7), 1 / 6)),
    ],
)
def test_a_logit_is_read_where_the_model_reads_it(
    name: str, classifier: str, tokens: dict[int, float]
) -> None:
    arch = VARIANTS[name]
    expected = torch.tensor([tokens.get(token, 0.0) for token in range(arch.num_tokens)])
    torch.testing.assert_close(readout(arch, classifier), expected)


def test_leaves_the_model_untouched() -> None:
    model = random_vit(TINY).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        gradients(model, random_images(model.arch)[0], 0).relevance(readout(model.arch)[None])
        assert not torch.is_grad_enabled()
    assert model.training and all(parameter.requires_grad for parameter in model.parameters())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    torch.testing.assert_close(dict(model.state_dict()), before, rtol=0, atol=0)


def test_refuses_what_the_model_does_not_have() -> None:
    plain, image = random_vit(TINY), random_images(TINY)[0]
    with pytest.raises(ValueError, match="numbered 0 to 9, got 10"):
        gradients(plain, image, 10)
    with pytest.raises(ValueError, match="classifier must be mean, got 'class'"):
        gradients(plain, image, 0, "class")
    with pytest.raises(ValueError, match="model with a classifier"):
        gradients(random_vit(VARIANTS["no head"]), image, 0)
    with pytest.raises(ValueError, match="discard must be"):
        gradients(plain, image, 0).rollout(readout(TINY)[None], 1.0)
