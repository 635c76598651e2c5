from __future__ import annotations

import pytest
import torch
from torch import Tensor

from analysis.vit import ViT
from pruning.cut.plan import Plan
from pruning.cut.ratios import Ratios, shrink
from pruning.cut.selection import Scores, select
from pruning.cut.surgery import cut
from pruning.projection.compensate import compensate
from tests.support.models import TINY, batches, on_variants, random_images, random_vit


def random_plan(model: ViT, ratios: Ratios) -> Plan:
    draw = torch.Generator().manual_seed(3)
    rand = lambda *shape: torch.rand(*shape, generator=draw)
    blocks = model.arch.blocks
    scores = Scores(
        qk=tuple(rand(b.heads, b.qk) for b in blocks),
        v=tuple(rand(b.heads, b.v) for b in blocks),
        mlp=tuple(rand(b.mlp) for b in blocks),
        heads=tuple(rand(b.heads) for b in blocks),
        embed=rand(model.arch.embed_dim),
    )
    return select(scores, model.arch, shrink(model.arch, ratios))


def distance(model: ViT, dense: ViT, images: Tensor) -> float:
    with torch.no_grad():
        return float((model(images) - dense(images)).square().mean())


@on_variants("plain", "uneven")
@pytest.mark.parametrize("ratios", [Ratios(v=0.4), Ratios(mlp=0.4), Ratios(heads=0.4)])
def test_what_one_structure_lost_comes_back(ratios: Ratios, variant: ViT) -> None:
    _logits_come_back(variant, ratios)


def test_logits_come_back_on_images_never_seen(variant: ViT) -> None:
    _logits_come_back(variant, Ratios(v=0.4, mlp=0.4, heads=0.4))


def _logits_come_back(variant: ViT, ratios: Ratios) -> None:
    plan = random_plan(variant, ratios)
    small = cut(variant, plan)
    better = compensate(variant, small, batches(random_images(variant.arch, 48)), plan.embed, steered=0)
    assert better.arch == small.arch
    others = random_images(variant.arch, count=64, seed=99)
    assert distance(better, variant, others) < distance(small, variant, others)


def test_the_stream_of_kept_channels_comes_back(tiny: ViT) -> None:
    plan = random_plan(tiny, Ratios(embed=0.25))
    small = cut(tiny, plan)
    images = random_images(TINY, count=48)
    better = compensate(tiny, small, batches(images), plan.embed, steered=0)
    others = random_images(TINY, count=32, seed=9)

    def gap(model: ViT) -> float:
        with torch.no_grad():
            dense, x = tiny.embed(others), model.embed(others)
            for whole, narrow in zip(tiny.blocks, model.blocks, strict=True):
                dense, x = whole(dense)[0], narrow(x)[0]
            return float((dense[..., list(plan.embed)] - x).square().mean())

    assert gap(better) < 0.9 * gap(small)


def test_nothing_removed_changes_nothing(variant: ViT) -> None:
    images = random_images(variant.arch, count=8)
    plan = Plan.keep_all(variant.arch)
    same = compensate(variant, cut(variant, plan), batches(images), plan.embed)
    torch.testing.assert_close(same(images), variant(images), atol=1e-4, rtol=1e-3)


def test_the_last_layer_solves_the_ridge(tiny: ViT) -> None:
    """Slow twin: the last block's fc2 as a ridge over all tokens, at one of the strengths tried."""
    from pruning.projection.least_squares import STRENGTHS

    plan = random_plan(tiny, Ratios(mlp=0.5))
    small = cut(tiny, plan)
    images = random_images(TINY, count=24)
    better = compensate(tiny, small, batches(images), plan.embed, steered=0).double()
    model, last = tiny.double(), better.blocks[-1]
    x, dense = better.embed(images.double()), model.embed(images.double())
    for whole, narrow in zip(model.blocks[:-1], better.blocks[:-1], strict=True):
        x, dense = narrow(x)[0], whole(dense)[0]
    dense, x = model.blocks[-1](dense)[0], x + last.attn(last.norm1(x))[0]
    z = last.mlp.act(last.mlp.fc1(last.norm2(x))).flatten(0, 1)
    y = (dense - x).flatten(0, 1)
    weights = torch.ones(TINY.num_tokens).double()
    weights[0], weights[1:] = 0.5 * TINY.num_tokens, 0.5 * TINY.num_tokens / (TINY.num_tokens - 1)
    counts = weights.repeat(len(images))[:, None]
    mean_z, mean_y = ((counts * part).sum(0) / counts.sum() for part in (z, y))
    z, y = z - mean_z, y - mean_y
    covariance, prior = (counts * z).T @ z / counts.sum(), small.blocks[-1].mlp.fc2.weight.double()
    errors = []
    for strength in STRENGTHS:
        ridge = covariance + strength * torch.diag(covariance.diagonal())
        cross = (counts * z).T @ (y - z @ prior.T) / counts.sum()
        expected = prior + torch.linalg.solve(ridge, cross).T
        errors.append(float((last.mlp.fc2.weight - expected).abs().max().detach()))
    assert min(errors) < 1e-4


def test_leaves_both_models_untouched(variant: ViT) -> None:
    plan = random_plan(variant, Ratios(qk=0.5, mlp=0.5))
    small = cut(variant, plan)
    before = [{n: v.clone() for n, v in model.state_dict().items()} for model in (variant, small)]
    compensate(variant, small, batches(random_images(variant.arch)), plan.embed)
    for model, state in zip((variant, small), before, strict=True):
        for name, value in model.state_dict().items():
            assert torch.equal(value, state[name])
        assert not any(module._forward_hooks for module in model.modules())


def test_no_images_are_refused() -> None:
    model = random_vit(TINY)
    with pytest.raises(ValueError, match="a refit needs calibration images, got none"):
        compensate(model, model, [], range(24))
