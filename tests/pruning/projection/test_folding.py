"""VBP and CORP: what removed parts did, folded into the weights that stay."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from analysis.vit import Architecture, ViT
from pruning.cut.plan import Plan
from pruning.cut.ratios import Ratios, shrink
from pruning.cut.selection import Scores, select
from pruning.cut.surgery import cut
from pruning.options import ImageOptions
from pruning.projection.folding.corp import AffineFolding, CorpOptions, corp_scores
from pruning.projection.folding.fold import Folding, fold, narrow_folded
from pruning.projection.folding.logits import PairProducts, logit_map
from pruning.projection.folding.neuron_statistics import NeuronStatistics
from pruning.projection.folding.vbp import MeanShift, VbpOptions, vbp_scores
from tests.support.models import SHORTER, TINY, batches, on_variants, random_images, random_vit

MANY = 64  # images, at most
TINY_RIDGE = AffineFolding(1e-9)
Scoring = Callable[[ViT, list[tuple[Tensor, Tensor]], ImageOptions], Scores]
METHODS: dict[str, tuple[Scoring, ImageOptions, Folding, Ratios]] = {
    "vbp": (vbp_scores, VbpOptions(), MeanShift(), Ratios(mlp=0.4)),  # type: ignore[dict-item]
    "corp": (corp_scores, CorpOptions(), AffineFolding(1e-3), Ratios(qk=0.4, mlp=0.4)),  # type: ignore[dict-item]
}
each_method = pytest.mark.parametrize("method", METHODS)


def chosen(method: str, model: ViT, images: Tensor) -> tuple[Plan, ViT, ViT]:
    """The plan, the model as it was cut, and with what was removed folded in."""
    score, options, folding, ratios = METHODS[method]
    plan = select(score(model, batches(images), options), model.arch, shrink(model.arch, ratios))
    small = cut(model, plan)
    return plan, small, fold(model, small, plan, batches(images), folding, MANY)


def keeping(arch: Architecture, *, qk: int | None = None, mlp: int | None = None) -> Plan:
    """The plan that keeps the first pairs of every head and the first neurons of every block."""
    first = lambda kept, width: tuple(range(width if kept is None else kept))
    blocks = []
    for block, widths in zip(Plan.keep_all(arch).blocks, arch.blocks, strict=True):
        pairs = (first(qk, widths.qk),) * widths.heads
        blocks.append(replace(block, qk=pairs, mlp=first(mlp, widths.mlp)))
    return Plan(tuple(range(arch.embed_dim)), tuple(blocks))


def without(model: ViT, plan: Plan, folding: Folding, images: Tensor) -> ViT:
    return fold(model, cut(model, plan), plan, batches(images), folding, MANY)


@torch.no_grad()
def activations(model: ViT, image: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Of one image, by block: the normed stream before attention N E, the neurons' activations N F."""
    x, found = model.embed(image[None]), []
    for block in model.blocks:
        normed = block.norm1(x)
        x = x + block.ls1(block.attn(normed)[0])
        neurons = block.mlp.act(block.mlp.fc1(block.norm2(x)))
        x = x + block.ls2(block.mlp.fc2(neurons))
        found.append((normed[0].double(), neurons[0].double()))
    return found


def variances(samples: list[Tensor]) -> list[float]:
    """Slow twin: of every neuron, over tokens of images (N F each), in two passes."""
    rows = [row for one in samples for row in one]
    found = []
    for neuron in range(len(rows[0])):
        values = [float(row[neuron]) for row in rows]
        mean = sum(values) / len(values)
        found.append(sum((value - mean) ** 2 for value in values) / (len(values) - 1))
    return found


# ---- statistics and scores


def test_statistics_are_those_of_all_samples_at_once() -> None:
    samples = 1e3 + torch.randn(7, 5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = NeuronStatistics(3)
    for part in samples.split([1, 4, 2]):
        found.add(part)
    torch.testing.assert_close(found.mean, samples.flatten(0, 1).mean(dim=0))
    torch.testing.assert_close(found.variance, torch.tensor(variances(list(samples))).double())


@on_variants("layer scale, no prefix in pos_embed", "uneven")
def test_vbp_scores_are_the_variances_of_activations(variant: ViT) -> None:
    images = random_images(variant.arch, 3)
    scores = vbp_scores(variant, batches(images, 2), VbpOptions())
    given = [activations(variant, image) for image in images]
    for index, got in enumerate(scores.mlp):
        expected = variances([one[index][1] for one in given])
        torch.testing.assert_close(got, torch.tensor(expected).double(), rtol=1e-4, atol=1e-8)
    assert not any(bool(part.any()) for part in (*scores.qk, *scores.v, *scores.heads, scores.embed))


@on_variants("no class token", "uneven")
def test_corp_scores_are_what_parts_add(variant: ViT) -> None:
    """Slow twin: sums over tokens of the output of fc2, and over pairs of tokens of the logits."""
    images = random_images(variant.arch, 3)
    scores = corp_scores(variant, batches(images, 2), CorpOptions())
    given = [activations(variant, image) for image in images]
    for index, block in enumerate(variant.blocks):
        columns = block.mlp.fc2.weight.detach().double().T
        spread = variances([one[index][1] for one in given])
        neurons = [float(column @ column) * value for column, value in zip(columns, spread, strict=True)]
        torch.testing.assert_close(scores.mlp[index], torch.tensor(neurons).double(), rtol=1e-4, atol=1e-8)
        expected = torch.zeros_like(scores.qk[index])
        for one in given:
            q, k = heads(block.attn, one[index][0])
            for head in range(len(q)):
                for pair in range(q.shape[-1]):
                    keys = k[head, :, pair] - k[head, :, pair].mean()
                    expected[head, pair] += torch.outer(q[head, :, pair], keys).square().sum()
        torch.testing.assert_close(scores.qk[index], expected, rtol=1e-4, atol=1e-8)


def heads(attn: Any, normed: Tensor) -> tuple[Tensor, Tensor]:
    """Queries and keys, H N Dqk, of the normed stream of one image."""
    with torch.no_grad():
        own = copy.deepcopy(attn).double()
        q, k, _ = own.split_heads(own.qkv(normed[None]))
    return q[0], k[0]


# ---- VBP


@on_variants("registers", "uneven")
def test_the_mean_of_what_goes_is_added_to_the_bias(variant: ViT) -> None:
    """Slow twin: every removed neuron's mean over tokens and images, times its column, one by one."""
    images = random_images(variant.arch, 5)
    plan, small, folded = chosen("vbp", variant, images)
    given = [activations(variant, image) for image in images]
    for index, (block, kept) in enumerate(zip(variant.blocks, plan.blocks, strict=True)):
        bias = block.mlp.fc2.bias.detach().double()
        for neuron in range(block.mlp.fc2.in_features):
            if neuron not in kept.mlp:
                values = [float(token[neuron]) for one in given for token in one[index][1]]
                bias += block.mlp.fc2.weight[:, neuron].detach().double() * (sum(values) / len(values))
        torch.testing.assert_close(folded.blocks[index].mlp.fc2.bias.double(), bias, rtol=1e-4, atol=1e-5)
        assert torch.equal(folded.blocks[index].mlp.fc2.weight, small.blocks[index].mlp.fc2.weight)
        assert torch.equal(folded.blocks[index].attn.qkv.weight, small.blocks[index].attn.qkv.weight)


@on_variants("registers", "average pool", "pre-norm")
def test_neurons_that_never_vary_go_first_and_nothing_is_lost(variant: ViT) -> None:
    constant = (0, 3, 4, 8)
    with torch.no_grad():
        for block in variant.blocks:
            block.mlp.fc1.weight[list(constant)] = 0
    images = random_images(variant.arch, 6)
    target = replace(
        variant.arch, blocks=tuple(replace(w, mlp=w.mlp - len(constant)) for w in variant.arch.blocks)
    )
    plan = select(vbp_scores(variant, batches(images), VbpOptions()), variant.arch, target)
    for kept in plan.blocks:
        assert not set(constant) & set(kept.mlp)
    others = random_images(variant.arch, 4, seed=9)
    folded = without(variant, plan, MeanShift(), images)
    torch.testing.assert_close(folded(others), variant(others), rtol=1e-4, atol=1e-4)
    assert (cut(variant, plan)(others) - variant(others)).abs().max() > 0.05


# ---- CORP


@on_variants("registers", "uneven")
def test_neurons_that_follow_from_others_are_lost_without_loss(variant: ViT) -> None:
    """The last five neurons repeat others."""
    with torch.no_grad():
        for block in variant.blocks:
            width = block.mlp.fc1.out_features
            for offset, source in enumerate((1, 0, 1, 4, 2)):
                for part in (block.mlp.fc1.weight, block.mlp.fc1.bias):
                    part[width - 5 + offset] = part[source]
    images = random_images(variant.arch, 24)
    plan = Plan.keep_all(variant.arch)
    blocks = tuple(replace(block, mlp=block.mlp[:-5]) for block in plan.blocks)
    _loses_nothing(variant, replace(plan, blocks=blocks), images)


@on_variants("distilled", "no class token", "uneven")
def test_pairs_that_follow_from_others_are_lost_without_loss(variant: ViT) -> None:
    """The last two queries and keys of every head are affine functions of the others."""
    draw = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for block in variant.blocks:
            attn = block.attn
            for part in (attn.qkv.weight, attn.qkv.bias):
                if part is None:
                    continue
                queries, keys, _ = part.split(attn.qkv_rows)
                draw.manual_seed(4)  # weights and biases are mixed alike
                for side in (queries, keys):
                    rows = side.unflatten(0, (attn.heads, -1))
                    mixed = 0.5 * torch.randn(2, attn.qk_dim - 2, generator=draw)
                    rows[:, -2:] = torch.einsum("ij,hj...->hi...", mixed, rows[:, :-2])
            if attn.qkv.bias is not None:
                attn.qkv.bias += 0.3 * torch.randn(attn.qkv.bias.shape, generator=draw)
    plan = Plan.keep_all(variant.arch)
    blocks = tuple(replace(block, qk=tuple(kept[:-2] for kept in block.qk)) for block in plan.blocks)
    _loses_nothing(variant, replace(plan, blocks=blocks), random_images(variant.arch, 24))


def _loses_nothing(model: ViT, plan: Plan, images: Tensor) -> None:
    folded = without(model, plan, TINY_RIDGE, images)
    others = random_images(model.arch, 4, seed=9)
    torch.testing.assert_close(folded(others), model(others), rtol=1e-3, atol=2e-3)
    assert (cut(model, plan)(others) - model(others)).abs().max() > 0.05


@pytest.mark.parametrize("strength", [1e-3, 1.0])
@pytest.mark.parametrize("constant", [True, False])
def test_lost_logits_are_fitted_over_all_pairs_of_tokens(strength: float, constant: bool) -> None:
    """Slow twin: one equation for every image, query and key."""
    model, kept, gone = random_vit(TINY).requires_grad_(False), (0, 2, 3, 6), (1, 4, 5, 7)
    attn = model.blocks[0].attn
    assert attn is not None
    normed = [activations(model, image)[0][0] for image in random_images(TINY, 4)]
    products = PairProducts.joined([PairProducts.of(attn.double(), one[None]) for one in normed])
    inputs, lost = [], []
    for one in normed:
        q, k = (part[1] for part in heads(attn, one))
        mean = k.mean(dim=0)
        for query in q:
            for key in k:
                row = [query[i] * (key - mean)[j] for i in kept for j in kept]
                inputs.append(
                    torch.stack([*row, *((key - mean)[j] for j in kept)][: None if constant else 16])
                )
                lost.append(sum(query[i] * (key - mean)[i] for i in gone))
    x, y = torch.stack(inputs), torch.stack(lost)
    curvature = x.T @ x
    penalised = curvature + strength * torch.diag(curvature.diagonal())
    expected = torch.linalg.solve(penalised, x.T @ y).view(-1, 4)
    got = logit_map(products, 1, kept, strength, constant)
    torch.testing.assert_close(got[: len(expected)], expected, rtol=1e-5, atol=1e-7)
    assert got.shape == (5, 4) and bool(got[len(expected) :].eq(0).all())


def test_lost_activations_are_predicted_by_ridge_regression() -> None:
    """Slow twin: the regression written out, and its answer folded in by the published formula."""
    model, strength = random_vit(TINY), 0.1
    images = random_images(TINY, 12)
    plan = keeping(TINY, mlp=20)
    folded = without(model, plan, AffineFolding(strength), images)
    for index, block in enumerate(model.requires_grad_(False).blocks):
        rows = torch.cat([activations(model, image)[index][1] for image in images])
        stay, gone = rows[:, :20], rows[:, 20:]
        x, y = stay - stay.mean(dim=0), gone - gone.mean(dim=0)
        penalised = x.T @ x + strength * torch.diag((x.T @ x).diagonal())
        b = torch.linalg.solve(penalised, x.T @ y).T  # P S
        c = gone.mean(dim=0) - b @ stay.mean(dim=0)
        weight, own = block.mlp.fc2.weight.double(), folded.blocks[index].mlp.fc2
        torch.testing.assert_close(
            own.weight.double(), weight[:, :20] + weight[:, 20:] @ b, rtol=1e-4, atol=1e-5
        )
        torch.testing.assert_close(
            own.bias.double(), block.mlp.fc2.bias.double() + weight[:, 20:] @ c, rtol=1e-4, atol=1e-5
        )


# ---- both


@each_method
@on_variants("plain", "no class token", "rms norms")
def test_predictions_come_back_on_images_never_seen(method: str, variant: ViT) -> None:
    _, small, folded = chosen(method, variant, random_images(variant.arch, 48))
    others = random_images(variant.arch, 64, seed=99)
    with torch.no_grad():
        before, after = (float((m(others) - variant(others)).square().mean()) for m in (small, folded))
    assert after < 0.9 * before


@each_method
@on_variants("uneven")
def test_without_a_ratio_nothing_changes(method: str, variant: ViT) -> None:
    plan = Plan.keep_all(variant.arch)
    same = without(variant, plan, METHODS[method][2], random_images(variant.arch))
    for name, value in variant.state_dict().items():
        assert torch.equal(same.state_dict()[name], value)


@each_method
@on_variants("uneven")
def test_a_block_narrowed_alone_is_that_of_a_model_narrowed_there(method: str, variant: ViT) -> None:
    score, options, folding, ratios = METHODS[method]
    images = random_images(variant.arch, 12)
    scores = score(variant, batches(images), options)
    narrow = narrow_folded(variant, scores, batches(images), folding, MANY)
    structures = [name for name in ("qk", "mlp") if getattr(ratios, name)]
    for index, widths in enumerate(variant.arch.blocks):
        for name in structures:
            for width in (getattr(widths, name) - 1, 2):
                blocks = list(variant.arch.blocks)
                blocks[index] = replace(widths, **{name: width})
                plan = select(scores, variant.arch, replace(variant.arch, blocks=tuple(blocks)))
                expected = without(variant, plan, folding, images).blocks[index].state_dict()
                for key, value in narrow(index, name, width).state_dict().items():
                    torch.testing.assert_close(value, expected[key], rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="blocks come in rising order, got block 0 after 1"):
        narrow(0, structures[0], 2)


@each_method
@on_variants("registers")
def test_batches_do_not_matter_and_both_models_stay_as_they_are(method: str, variant: ViT) -> None:
    images = random_images(variant.arch, 6)
    before = copy.deepcopy(variant.state_dict())
    plan, small, folded = chosen(method, variant, images)
    others = fold(variant, small, plan, batches(images, 1), METHODS[method][2], MANY)
    torch.testing.assert_close(others.state_dict(), folded.state_dict(), rtol=1e-4, atol=1e-5)
    for name, value in variant.state_dict().items():
        assert torch.equal(value, before[name])
    kept = cut(variant, plan).state_dict()
    assert all(torch.equal(value, kept[name]) for name, value in small.state_dict().items())
    assert folded.arch == small.arch and all(p.requires_grad for p in folded.parameters())


@each_method
@pytest.mark.parametrize("name", ["merging, registers", "without halves"])
def test_halves_that_are_absent_and_tokens_that_merge(method: str, name: str) -> None:
    score, options, folding, ratios = METHODS[method]
    model = random_vit(SHORTER[name])
    images = random_images(model.arch, 48)
    scores = score(model, batches(images), options)
    widths = (
        replace(w, qk=w.qk - 2 if w.heads and ratios.qk else w.qk, mlp=w.mlp - 12 if w.mlp else 0)
        for w in model.arch.blocks
    )
    target = replace(model.arch, blocks=tuple(widths))
    plan = select(scores, model.arch, target)
    folded, others = without(model, plan, folding, images), random_images(model.arch, 32, seed=99)
    assert folded.arch == target
    with torch.no_grad():
        before, after = (
            float((m(others) - model(others)).square().mean()) for m in (cut(model, plan), folded)
        )
    assert after < before


@each_method
def test_no_images_are_refused(method: str, tiny: ViT) -> None:
    score, options, folding, _ = METHODS[method]
    with pytest.raises(ValueError, match="calibration images, got none"):
        score(tiny, [], options)
    with pytest.raises(ValueError, match="calibration images, got none"):
        plan = keeping(TINY, mlp=20)
        fold(tiny, cut(tiny, plan), plan, [], folding, MANY)
