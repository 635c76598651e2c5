from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from analysis.vit import Architecture, ViT
from pruning.activations import Activations
from pruning.projection.block_parts import halves
from pruning.projection.refit import refit_writer
from pruning.projection.rotation import fold_norms, principal_basis, project, rotate
from pruning.projection.streams import Streams
from tests.support.models import TINY, VARIANTS, batches, random_images, random_vit

REFUSED = {"pre-norm": "a norm in front of its blocks", "no head": "without a classifier"}
ROTATABLE = [name for name in VARIANTS if name not in REFUSED]
AVERAGES = {
    "norm behind the pool": VARIANTS["average pool"],
    "norm before the pool": replace(TINY, pool="avg", norm_before_pool=True),
}


def orthogonal(width: int, seed: int = 3) -> Tensor:
    return torch.linalg.qr(torch.randn(width, width, generator=torch.Generator().manual_seed(seed)).double())[
        0
    ]


def moment(width: int, seed: int) -> Tensor:
    z = torch.randn(50, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return z.T @ z / 50


def low_rank_vit(arch: Architecture, rank: int) -> ViT:
    """A model whose centred stream never leaves `rank` directions, in double precision."""
    model = random_vit(replace(arch, norm="rms")).double()
    with torch.no_grad():
        onto = orthogonal(arch.embed_dim)[:, :rank]
        onto = onto @ onto.T
        for name, value in model.named_parameters():
            if name.endswith(("token", "pos_embed")):
                value.copy_(value @ onto)
            elif ".proj." in name or ".fc2." in name:
                value.copy_(torch.tensordot(onto, value, dims=([1], [0])))
    return model


@pytest.mark.parametrize("name", ROTATABLE)
def test_folding_changes_no_logits(name: str) -> None:
    model = random_vit(VARIANTS[name]).double()
    images = random_images(model.arch).double()
    folded = fold_norms(model)
    assert folded.arch == replace(model.arch, norm="rms", qkv_bias=True, layer_scale=False)
    torch.testing.assert_close(folded(images), model(images), atol=1e-11, rtol=1e-11)
    if model.arch.norm == "layer":
        x = folded.embed(images)
        torch.testing.assert_close(x.mean(dim=-1), torch.zeros_like(x[..., 0]), atol=1e-12, rtol=0)


@pytest.mark.parametrize("name", ROTATABLE)
def test_any_rotation_changes_no_logits(name: str) -> None:
    """SliceGPT's theorem, on the narrowest basis that loses nothing too: centred streams have rank E - 1."""
    model = random_vit(VARIANTS[name]).double()
    images = random_images(model.arch).double()
    folded = fold_norms(model)
    torch.testing.assert_close(project(folded, orthogonal(24))(images), model(images), atol=1e-11, rtol=1e-11)
    if model.arch.norm == "layer":
        ones = torch.ones(24, 1).double()
        others = torch.linalg.qr(torch.cat([ones, orthogonal(24)[:, :23]], dim=1))[0][:, 1:]
        small = project(folded, others)
        assert small.arch.embed_dim == 23
        torch.testing.assert_close(small(images), model(images), atol=1e-11, rtol=1e-11)


@pytest.mark.parametrize("name", ROTATABLE)
def test_full_width_is_the_dense_model(name: str) -> None:
    model = random_vit(VARIANTS[name]).double()
    images = random_images(model.arch, count=6).double()
    same = rotate(model, batches(images, 4), model.arch.embed_dim)
    assert same.arch.norm == "rms" and next(same.parameters()).dtype == torch.float64
    torch.testing.assert_close(same(images), model(images), atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("arch", AVERAGES.values(), ids=AVERAGES.keys())
def test_average_pools_lose_nothing_but_the_mean(arch: Architecture) -> None:
    model = random_vit(arch).double()
    images = random_images(arch, count=6).double()
    small = rotate(model, batches(images, 4), 23)
    torch.testing.assert_close(small(images), model(images), atol=1e-7, rtol=1e-7)


def test_directions_that_never_occur_cost_nothing() -> None:
    model, images = low_rank_vit(TINY, 15), random_images(TINY, count=8).double()
    small = rotate(model, batches(images, 4), 15)
    torch.testing.assert_close(small(images), model(images), atol=1e-6, rtol=1e-6)
    assert apart(rotate(model, batches(images, 4), 14)(images), model(images)) > 1e-3


def apart(got: Tensor, expected: Tensor) -> float:
    return float(((got - expected).norm() / expected.norm()).detach())


@pytest.mark.parametrize("name", ROTATABLE)
def test_narrow_model_stays_close_and_loads_from_its_architecture(name: str) -> None:
    model, images = random_vit(VARIANTS[name]), random_images(VARIANTS[name], count=24)
    small = rotate(model, batches(images, 8), 20)
    folded = fold_norms(model)
    assert small.arch == replace(folded.arch, embed_dim=20, norm_eps=folded.arch.norm_eps * 24 / 20)
    fresh = ViT(Architecture.from_json(small.arch.to_json()))
    fresh.load_state_dict(small.state_dict())
    torch.testing.assert_close(fresh.eval()(images), small(images))
    cut = project(folded, torch.eye(24, 20).double())(images.double())
    gap = apart(small(images), model(images))
    assert 1e-4 < gap < 0.9 * apart(cut, model(images).double())


@pytest.mark.parametrize("keep", [1, 3, 5])
def test_basis_loses_the_dropped_eigenvalues(keep: int) -> None:
    covariance, metric = moment(6, 1), moment(6, 2)
    basis = principal_basis(covariance, metric, keep)
    torch.testing.assert_close(basis.T @ basis, torch.eye(keep).double())
    inner = basis.T @ metric @ basis  # the best x' in the span, by the metric
    missing = torch.eye(6).double() - basis @ torch.linalg.solve(inner, basis.T @ metric)
    loss = float(torch.trace(missing.T @ metric @ missing @ covariance))
    root = torch.linalg.cholesky(metric)
    dropped = torch.linalg.eigvalsh(root.T @ covariance @ root)[: 6 - keep]
    assert loss == pytest.approx(float(dropped.sum()), rel=1e-9)


def test_basis_with_a_plain_metric_is_the_principal_components() -> None:
    covariance = moment(6, 1)
    basis = principal_basis(covariance, torch.eye(6).double(), 2)
    leading = torch.linalg.eigh(covariance)[1][:, -2:]
    torch.testing.assert_close(basis @ basis.T, leading @ leading.T)


def test_one_reader_is_refitted_by_least_squares() -> None:
    """Twin: what the first fc1 reads, against lstsq on tokens collected by hand."""
    model, images = random_vit(TINY).double(), random_images(TINY, count=64).double()
    small = rotate(model, batches(images, 16), 20, steered=0.0, focus=0.0)
    dense = fold_norms(model)
    with torch.no_grad():
        x = dense.embed(images)
        x = x + dense.blocks[0].attn(dense.blocks[0].norm1(x))[0]
        y = dense.blocks[0].mlp.fc1(dense.blocks[0].norm2(x)).flatten(0, 1)
        z = small.embed(images)
        z = z + small.blocks[0].attn(small.blocks[0].norm1(z))[0]
        z = small.blocks[0].norm2(z)
        got = small.blocks[0].mlp.fc1(z).flatten(0, 1)
        z = torch.cat([z.flatten(0, 1), torch.ones(len(y), 1).double()], dim=1)
        best = z @ torch.linalg.lstsq(z, y).solution
    torch.testing.assert_close((got - y).mean(dim=0), torch.zeros(32).double(), atol=1e-9, rtol=0)
    assert (best - y).square().mean() <= (got - y).square().mean() < 1.05 * (best - y).square().mean()


def test_a_writer_makes_up_for_what_was_lost_before() -> None:
    """Twin: half of the stream is gone; fc2 is refitted as by lstsq on tokens collected by hand."""
    dense, basis = fold_norms(random_vit(TINY)), orthogonal(24)
    images = random_images(TINY, count=64).double()
    small = project(dense, basis)
    streams = Streams(Activations(), dense, batches(images, 16), 64, 0.0)
    weights = torch.ones(TINY.num_tokens)
    for number, x, _ in streams:
        streams.write(number, pruned=x @ basis / 2)
    x = torch.cat([x for _, x, _ in streams])
    block, narrow = dense.blocks[0], small.blocks[0]
    hidden = narrow.mlp.act(narrow.mlp.fc1(narrow.norm2(x @ basis / 2))).flatten(0, 1)
    behind = ((x + block.mlp(block.norm2(x))) @ basis).flatten(0, 1)
    unfitted = (x @ basis / 2 + narrow.mlp(narrow.norm2(x @ basis / 2))).flatten(0, 1)
    hidden = torch.cat([hidden, torch.ones(len(hidden), 1).double()], dim=1)
    target = behind - (x @ basis / 2).flatten(0, 1)
    least = (hidden @ torch.linalg.lstsq(hidden, target).solution - target).square().mean()
    wide, thin = halves(block)[1], halves(narrow)[1]
    assert wide is not None and thin is not None
    refit_writer(wide, thin, streams, weights, lambda x: x @ basis)
    pruned = torch.cat([z for _, _, z in streams]).flatten(0, 1)
    assert least <= (pruned - behind).square().mean() < 1.05 * least
    assert (pruned - behind).square().mean() < 0.5 * (unfitted - behind).square().mean()
    torch.testing.assert_close(torch.cat([x for _, x, _ in streams]).flatten(0, 1) @ basis, behind)


def test_result_does_not_depend_on_batching(tiny: ViT) -> None:
    images = random_images(TINY, count=9)
    one, other = (rotate(tiny, batches(images, size), 20)(images) for size in (9, 2))
    torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-3)


def test_images_are_limited(tiny: ViT) -> None:
    images = random_images(TINY, count=9)
    few = rotate(tiny, batches(images[:5], 5), 20)(images)
    torch.testing.assert_close(
        rotate(tiny, batches(images, 4), 20, images=5)(images), few, atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize("count", [1, 2])
def test_few_images_are_enough(count: int, tiny: ViT) -> None:
    images = random_images(TINY, count=count)
    assert bool(rotate(tiny, batches(images), 20)(images).isfinite().all())


def test_rotating_again_narrows_further(tiny: ViT) -> None:
    images = random_images(TINY, count=24)
    once = rotate(tiny, batches(images, 8), 22)
    twice = rotate(once, batches(images, 8), 20)
    assert twice.arch.embed_dim == 20
    at_once = rotate(tiny, batches(images, 8), 20)
    assert apart(twice(images), tiny(images)) < 1.3 * apart(at_once(images), tiny(images))


def test_leaves_its_argument_untouched(variant_rotatable: ViT) -> None:
    model = variant_rotatable.double()  # the dtype in which copies are easily forgotten
    before = {name: value.clone() for name, value in model.state_dict().items()}
    small = rotate(model, batches(random_images(model.arch).double()), 20)
    with torch.no_grad():
        for parameter in small.parameters():
            parameter.zero_()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in (*model.parameters(), *small.parameters()))


@pytest.fixture(params=ROTATABLE)
def variant_rotatable(request: pytest.FixtureRequest) -> ViT:
    return random_vit(VARIANTS[request.param])


def test_mode_is_kept_and_progress_told(tiny: ViT) -> None:
    told: list[float] = []
    images = random_images(TINY)
    assert not rotate(tiny, batches(images), 20, progress=told.append).training
    assert rotate(tiny.train(), batches(images), 20).training
    assert told == [0.25, 0.5, 0.75, 1.0]


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_rotated_is_refused(name: str) -> None:
    model, images = random_vit(VARIANTS[name]), random_images(VARIANTS[name])
    with pytest.raises(ValueError, match=REFUSED[name]):
        rotate(model, batches(images), 20)
    with pytest.raises(ValueError, match=REFUSED[name]):
        fold_norms(model)


@pytest.mark.parametrize("width", [0, 25])
def test_impossible_widths_are_refused(width: int, tiny: ViT) -> None:
    with pytest.raises(ValueError, match=f"embed_dim must be from 1 to the model's 24, got {width}"):
        rotate(tiny, batches(random_images(TINY)), width)


def test_no_images_are_refused(tiny: ViT) -> None:
    with pytest.raises(ValueError, match="needs calibration images, got none"):
        rotate(tiny, [], 20)


def test_activations_that_are_not_finite_are_refused(tiny: ViT) -> None:
    images = random_images(TINY)
    images[0, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="activations are not finite"):
        rotate(tiny, batches(images), 20, steered=0.0)
