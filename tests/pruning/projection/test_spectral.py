from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from analysis.vit import Architecture, BlockWidths, ViT
from pruning.cut.plan import BlockPlan, Plan
from pruning.cut.surgery import cut
from pruning.projection.bases.subspaces import qk_bases, truncate, value_bases
from pruning.projection.rotation import rotate
from pruning.projection.spectral import SpectralOptions, narrow_spectral, spectral
from pruning.projection.steering import steer, steered, steered_twice
from pruning.projection.streams import token_weights
from tests.support import reference
from tests.support.models import TINY, VARIANTS, batches, on_variants, random_images, random_vit


def narrowed(arch: Architecture, qk: float = 1, v: float = 1, mlp: float = 1) -> Architecture:
    blocks = tuple(
        BlockWidths(b.heads, max(1, round(b.qk * qk)), max(1, round(b.v * v)), max(1, round(b.mlp * mlp)))
        for b in arch.blocks
    )
    return replace(arch, blocks=blocks)


def moment(width: int, seed: int) -> Tensor:
    z = torch.randn(50, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return z.T @ z / 50


def apart(got: Tensor, expected: Tensor) -> float:
    return float(((got - expected).norm() / expected.norm()).detach())


def test_full_rank_is_the_dense_model(variant: ViT) -> None:
    images = random_images(variant.arch, count=6)
    same = spectral(variant, batches(images, 4), variant.arch)
    assert same is not variant
    torch.testing.assert_close(same(images), variant(images), atol=1e-4, rtol=1e-3)


def test_full_rank_in_double_precision(variant: ViT) -> None:
    model, images = variant.double(), random_images(variant.arch, count=6).double()
    same = spectral(model, batches(images, 4), model.arch)
    assert next(same.parameters()).dtype == torch.float64
    torch.testing.assert_close(same(images), model(images), atol=1e-9, rtol=1e-9)


@on_variants("plain", "uneven")
@pytest.mark.parametrize("what", [{"qk": 0.5}, {"v": 0.5}, {"mlp": 0.5}])
def test_one_structure_narrowed(what: dict[str, float], variant: ViT) -> None:
    _logits_stay_close(variant, narrowed(variant.arch, **what))


def test_widths_are_the_targets_and_logits_stay_close(variant: ViT) -> None:
    _logits_stay_close(variant, narrowed(variant.arch, qk=0.5, v=0.6, mlp=0.7))


def _logits_stay_close(variant: ViT, target: Architecture) -> None:
    images = random_images(variant.arch, count=24)
    small = spectral(variant, batches(images, 8), target)
    assert small.arch == target
    fresh = ViT(target)
    fresh.load_state_dict(small.state_dict())
    torch.testing.assert_close(fresh.eval()(images), small(images))
    gap = apart(small(images), variant(images))
    assert 1e-4 < gap < 0.7


def test_pruning_a_dead_part_costs_nothing(tiny: ViT) -> None:
    """Widths that nothing uses: the zeroed channels are found, whichever they are."""
    with torch.no_grad():
        for block in tiny.blocks:
            rows = block.attn.qkv.weight.view(3, 3, 8, 24)
            rows[0, :, 1::2], block.attn.qkv.bias.view(3, 3, 8)[0, :, 1::2] = 0, 0
            block.attn.proj.weight.view(24, 3, 8)[..., ::2] = 0
            block.mlp.fc2.weight[:, ::2] = 0
    images = random_images(TINY, count=16)
    small = spectral(tiny, batches(images, 8), narrowed(TINY, 0.5, 0.5, 0.5))
    torch.testing.assert_close(small(images), tiny(images), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("name", ["layer scale, no prefix in pos_embed", "registers"])
def test_layer_scale_near_zero_does_no_harm(name: str) -> None:
    model = random_vit(VARIANTS[name])
    with torch.no_grad():
        for block in model.blocks:
            block.get_parameter("ls1.gamma")[::3] = 0
            block.get_parameter("ls2.gamma")[1::3] = 1e-30
    images = random_images(model.arch, count=24)
    small = spectral(model, batches(images, 8), narrowed(model.arch, 0.8, 0.8, 0.8))
    assert apart(small(images), model(images)) < 0.4


@pytest.mark.parametrize("rank", range(1, 6))
def test_spectral_pairs_beat_every_subset(rank: int) -> None:
    query, key = moment(6, 1), moment(6, 2)
    on_q, on_k = (basis[0] for basis in qk_bases(query[None], key[None], rank))
    missing = torch.eye(6).double() - on_q @ on_k.T
    error = float(torch.trace(missing.T @ query @ missing @ key))
    assert error <= reference.best_subset_of_pairs(query, key, rank) + 1e-9
    dropped = torch.linalg.svdvals(torch.linalg.cholesky(query).T @ torch.linalg.cholesky(key))[rank:]
    assert error == pytest.approx(float(dropped.square().sum()), rel=1e-6)


def test_all_pairs_give_the_scores_back_even_of_dead_channels() -> None:
    query, key = moment(6, 1), torch.zeros(6, 6).double()
    on_q, on_k = qk_bases(query[None], key[None], 6)
    torch.testing.assert_close(on_q[0] @ on_k[0].T, torch.eye(6).double())


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_truncation_loses_the_dropped_singular_values(rank: int) -> None:
    covariance = moment(5, 3)
    weight = torch.randn(7, 5, generator=torch.Generator().manual_seed(4)).double()
    down = truncate(covariance, weight, rank)
    up = weight @ covariance @ down.T @ torch.linalg.inv(down @ covariance @ down.T)
    missing = weight - up @ down
    loss = float(torch.trace(missing @ covariance @ missing.T))
    dropped = torch.linalg.svdvals(weight @ torch.linalg.cholesky(covariance))[rank:]
    assert loss == pytest.approx(float(dropped.square().sum()), rel=1e-6)


def loss_of(covariance: Tensor, weight: Tensor, bases: Tensor) -> float:
    """Least squared error of predicting weight z from all heads' channels."""
    down = torch.block_diag(*bases)
    inner, outer = down @ covariance @ down.T, down @ covariance @ weight.T
    explained = (outer * torch.linalg.solve(inner, outer)).sum()
    return float(torch.trace(weight @ covariance @ weight.T) - explained)


def test_heads_in_view_of_each_other_beat_heads_alone() -> None:
    covariance = moment(12, 5)
    weight = torch.randn(9, 12, generator=torch.Generator().manual_seed(6)).double()
    parts = [slice(0, 4), slice(4, 8), slice(8, 12)]
    alone = torch.stack([truncate(covariance[p, p], weight[:, p], 2) for p in parts])
    together = value_bases(covariance, weight, 3, 2)
    assert loss_of(covariance, weight, together) < loss_of(covariance, weight, alone)
    for head in range(3):  # no other channels of one head would do better beside the others
        for seed in range(20):
            other = together.clone()
            step = torch.randn(2, 4, generator=torch.Generator().manual_seed(seed)).double()
            other[head] += 0.3 * other[head].norm() * step
            assert loss_of(covariance, weight, other) > 0.999 * loss_of(covariance, weight, together)


def test_value_bases_of_one_head_are_its_truncation() -> None:
    covariance, weight = moment(5, 3), torch.randn(7, 5).double()
    torch.testing.assert_close(value_bases(covariance, weight, 1, 2)[0], truncate(covariance, weight, 2))


def test_value_rows_are_as_long_as_before(tiny: ViT, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where heads' outputs hardly vary; twin: the bases as they are, which make the same model."""
    for block in tiny.blocks:
        assert block.attn is not None
        with torch.no_grad():  # tokens attend alike
            block.attn.qkv.weight[: sum(block.attn.qkv_rows[:2])] = 0
    images, target = random_images(TINY, count=8), narrowed(TINY, v=0.5)
    small = spectral(tiny, batches(images), target)

    def unchanged(bases: Tensor) -> tuple[Tensor, Tensor]:
        return bases, torch.eye(bases.shape[1]).to(bases).expand(len(bases), -1, -1)

    monkeypatch.setattr(sys.modules["pruning.projection.project_block"], "orthonormal", unchanged)
    long = spectral(tiny, batches(images), target)
    torch.testing.assert_close(small(images), long(images), atol=1e-4, rtol=1e-4)
    sizes = [[_value_size(model, index) for model in (tiny, small, long)] for index in range(TINY.depth)]
    assert all(0.5 * dense < even < 2 * dense < 5 * own for dense, even, own in sizes), sizes


def _value_size(model: ViT, index: int) -> float:
    attn = model.blocks[index].attn
    assert attn is not None
    return float(attn.qkv.weight[sum(attn.qkv_rows[:2]) :].detach().square().mean().sqrt())


def test_what_all_keys_of_an_image_share_is_not_seen(tiny: ViT) -> None:
    """A large bias on the keys changes no attention, so it must not change what is kept."""
    images, target = random_images(TINY, count=8), narrowed(TINY, qk=0.5)
    expected = spectral(tiny, batches(images, 8), target)(images)
    with torch.no_grad():
        for block in tiny.blocks:
            block.attn.qkv.bias[24:48] += 5 * torch.randn(24, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        spectral(tiny, batches(images, 8), target)(images), expected, atol=1e-3, rtol=1e-3
    )


def test_result_does_not_depend_on_batching(tiny: ViT) -> None:
    images, target = random_images(TINY, count=9), narrowed(TINY, 0.5, 0.5, 0.5)
    one, other = (spectral(tiny, batches(images, size), target)(images) for size in (9, 2))
    torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-3)


@on_variants("plain", "uneven", "average pool")
@pytest.mark.parametrize("count", [1, 2])
def test_few_images_and_rank_one(count: int, variant: ViT) -> None:
    target = replace(variant.arch, blocks=tuple(BlockWidths(b.heads, 1, 1, 1) for b in variant.arch.blocks))
    small = spectral(variant, batches(random_images(variant.arch, count=count)), target)
    assert bool(small(random_images(variant.arch, seed=9)).isfinite().all())


def test_a_dead_block_is_no_error(tiny: ViT) -> None:
    with torch.no_grad():
        for parameter in tiny.blocks[0].parameters():
            parameter.zero_()
    images = random_images(TINY, count=8)
    small = spectral(tiny, batches(images), narrowed(TINY, 0.5, 0.5, 0.5))
    assert bool(small(images).isfinite().all())


def test_leaves_the_model_untouched(variant: ViT) -> None:
    calls = []
    variant.blocks[0].register_forward_hook(lambda *_: calls.append(1))
    variant.train()
    before = {name: value.clone() for name, value in variant.state_dict().items()}
    small = spectral(variant, batches(random_images(variant.arch)), narrowed(variant.arch, 0.5, 0.5, 0.5))
    with torch.no_grad():
        for parameter in small.parameters():
            parameter.zero_()
    for name, value in variant.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert variant.training and small.training and not calls
    assert all(parameter.grad is None and parameter.requires_grad for parameter in variant.parameters())
    assert all(parameter.requires_grad for parameter in small.parameters())


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_activations_lie_on_disk_and_are_removed(tiny: ViT, temporary: Path) -> None:
    seen = []
    look = lambda _: seen.append(len(list(temporary.rglob("*.npy"))))
    spectral(tiny, batches(random_images(TINY, count=6), 2), narrowed(TINY, 0.5), progress=look)
    assert set(seen) == {6}  # two streams of three batches
    assert not list(temporary.iterdir())


def test_activations_are_removed_after_an_error(tiny: ViT, temporary: Path) -> None:
    def broken() -> Iterator[tuple[Tensor, Tensor]]:
        yield from batches(random_images(TINY))
        assert list(temporary.iterdir())
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space left"):
        spectral(tiny, broken(), narrowed(TINY, 0.5))
    assert not list(temporary.iterdir())


def test_progress_rises_to_one(tiny: ViT) -> None:
    told: list[float] = []
    spectral(tiny, batches(random_images(TINY)), narrowed(TINY, 0.5), progress=told.append)
    assert told == sorted(told) and told[-1] == 1


def test_no_more_images_than_asked(tiny: ViT) -> None:
    read = []

    def images() -> Iterator[tuple[Tensor, Tensor]]:
        for number in range(5):
            read.append(number)
            yield from batches(random_images(TINY, count=2, seed=number))

    target = narrowed(TINY, 0.5, 0.5, 0.5)
    got = spectral(tiny, images(), target, SpectralOptions(images=3))
    assert read == [0, 1]
    two, one = random_images(TINY, count=2, seed=0), random_images(TINY, count=2, seed=1)[:1]
    probe = random_images(TINY, seed=7)
    expected = spectral(tiny, [*batches(two), *batches(one)], target)
    torch.testing.assert_close(got(probe), expected(probe), atol=1e-4, rtol=1e-4)


def golden(number: int, classes: int) -> int:
    return int(number * 0.6180339887498949 % 1 * classes)


def test_steering_brings_every_image_nearer_to_its_class(tiny: ViT) -> None:
    images = random_images(TINY, count=20)
    moved = steer(tiny, images, 5, 1.0)
    with torch.no_grad():
        before, after = tiny(images).log_softmax(-1), tiny(moved).log_softmax(-1)
    for number in range(20):
        wanted = golden(number + 5, 10)
        assert after[number, wanted] > before[number, wanted]
        change = (moved[number] - images[number]).abs().max() / images[number].std()
        assert 0 < float(change) <= 0.0901
    assert len({golden(number, 10) for number in range(20)}) == 10


@pytest.mark.parametrize(("share", "count"), [(0.0, 0), (0.25, 5), (0.7, 14), (1.0, 20)])
def test_as_many_are_steered_as_asked_however_they_are_batched(share: float, count: int, tiny: ViT) -> None:
    images = random_images(TINY, count=20)
    moved = steer(tiny, images, 0, share)
    assert int((moved != images).flatten(1).any(dim=1).sum()) == count
    parts = torch.cat([steer(tiny, images[:7], 0, share), steer(tiny, images[7:], 7, share)])
    torch.testing.assert_close(parts, moved)


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_batches_are_steered_as_all_images_at_once(share: float, tiny: ViT) -> None:
    images = random_images(TINY, 10)
    parts = [x for x, _ in steered(tiny, batches(images, 4), share)]
    assert [len(x) for x in parts] == [4, 4, 2]
    torch.testing.assert_close(torch.cat(parts), steer(tiny, images, 0, share))


@pytest.mark.parametrize("share", [0.3, 0.5, 0.9, 1.0])
def test_half_of_the_share_comes_for_nothing(share: float, tiny: ViT) -> None:
    """The second batch is what steering half of the share would give."""
    images = random_images(TINY, 23)
    both = list(steered_twice(tiny, batches(images, 5), share))
    for place, part in ((0, share), (1, share / 2)):
        alone = torch.cat([x for x, _ in steered(tiny, batches(images, 5), part)])
        torch.testing.assert_close(torch.cat([one[place] for one in both]), alone)


def test_without_a_classifier_nothing_is_steered() -> None:
    images = random_images(TINY)
    assert torch.equal(steer(random_vit(VARIANTS["no head"]), images, 0, 1.0), images)


@pytest.mark.parametrize("name", VARIANTS)
def test_token_weights_follow_what_is_read(name: str) -> None:
    arch = VARIANTS[name]
    inner, last = token_weights(arch, 0, 0.4), token_weights(arch, arch.depth - 1, 0.4)
    assert inner.mean() == pytest.approx(1) and last.mean() == pytest.approx(1)
    if arch.pool == "avg":
        assert torch.equal(inner, torch.ones(arch.num_tokens)) and torch.equal(last, inner)
    else:
        read = 1 + arch.distilled
        assert float(inner[:read].sum() / inner.sum()) == pytest.approx(0.4)
        assert float(last[:read].sum() / last.sum()) == pytest.approx(0.9)
        assert len(last[read:].unique()) == 1


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (replace(TINY, embed_dim=40), "must be the model's architecture with narrower blocks"),
        (
            replace(TINY, blocks=(BlockWidths(2, 8, 8, 32), BlockWidths(3, 8, 8, 32))),
            "keeps every head: set heads to 0, or name a criterion",
        ),
        (replace(TINY, blocks=(BlockWidths(3, 9, 8, 32),) * 2), "cannot keep 9 of 8 in qk of block 0"),
        (replace(TINY, blocks=TINY.blocks[:1]), "must be the model's architecture with narrower blocks"),
        (replace(TINY, registers=2), "must be the model's architecture with narrower blocks"),
    ],
)
def test_targets_out_of_reach_are_refused(target: Architecture, message: str, tiny: ViT) -> None:
    with pytest.raises(ValueError, match=message):
        spectral(tiny, batches(random_images(TINY)), target)


def test_no_images_is_an_error(tiny: ViT) -> None:
    with pytest.raises(ValueError, match="needs calibration images, got none"):
        spectral(tiny, [], narrowed(TINY, 0.5))


def test_weights_that_are_not_finite_are_an_error(tiny: ViT) -> None:
    with torch.no_grad():
        tiny.blocks[0].attn.qkv.weight[0, 0] = torch.nan
    with pytest.raises(ValueError, match="activations are not finite"):
        spectral(tiny, batches(random_images(TINY)), narrowed(TINY, 0.5))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SpectralOptions(images=0), "images must be a whole number from 1 to 4096, got 0"),
        (lambda: SpectralOptions(pull=101), "pull must be a whole number from 0 to 100, got 101"),
        (lambda: SpectralOptions(steered=-1), "steered must be a whole number from 0 to 100, got -1"),
        (lambda: SpectralOptions(focus=91), "focus must be a whole number from 0 to 90"),
    ],
)
def test_options_keep_their_range(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(("left", "refitted"), [(6, True), (1, False)])
def test_readers_are_refitted_while_the_streams_are_near(left: int, refitted: bool, tiny: ViT) -> None:
    """Behind a slightly narrower attention `fc1` reads what it read before better than it would as it was."""
    images, block = random_images(TINY, count=24), tiny.blocks[0]
    target = replace(TINY, blocks=(replace(TINY.blocks[0], v=left), *TINY.blocks[1:]))
    small = spectral(tiny, batches(images), target, SpectralOptions(steered=0)).blocks[0]
    assert torch.equal(small.mlp.fc1.weight, block.mlp.fc1.weight) is not refitted
    if refitted:
        x = tiny.embed(images)
        wanted = block.mlp.fc1(block.norm2(x + block.attn(block.norm1(x))[0]))
        given = small.norm2(x + small.attn(small.norm1(x))[0])
        assert apart(small.mlp.fc1(given), wanted) < apart(block.mlp.fc1(given), wanted)


def test_heads_removed_first_are_made_up_for(tiny: ViT) -> None:
    """Without them the projection still aims at the dense stream, and comes closer than the cut alone."""
    images, others = random_images(TINY, count=48), random_images(TINY, count=32, seed=5)
    blocks = tuple(replace(block, heads=(0, 2), qk=block.qk[:2], v=block.v[:2]) for block in plan_blocks())
    start = cut(tiny, Plan(tuple(range(24)), blocks))
    target = narrowed(start.arch, qk=0.75)
    small = spectral(tiny, batches(images, 8), target, SpectralOptions(steered=0), start=start)
    assert small.arch == target
    assert apart(small(others), tiny(others)) < apart(start(others), tiny(others))


def plan_blocks() -> tuple[BlockPlan, ...]:
    return Plan.keep_all(TINY).blocks


def test_a_start_with_all_heads_is_none(tiny: ViT) -> None:
    images, target = random_images(TINY, count=8), narrowed(TINY, 0.5, 0.5, 0.5)
    got = spectral(tiny, batches(images), target, start=tiny)
    expected = spectral(tiny, batches(images), target)
    torch.testing.assert_close(got(images), expected(images), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("structure", ["qk", "v", "mlp"])
def test_one_block_narrowed_is_what_the_whole_method_makes_of_it(
    structure: str, tiny: ViT, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twin: projecting the whole model with only that structure of that block narrower."""
    monkeypatch.setattr(sys.modules["pruning.projection.spectral"], "_NARROW_SWEEPS", 4)  # as often
    monkeypatch.setattr(sys.modules["pruning.projection.spectral"], "_NARROW_SCORES", 16)  # on as many images
    options = SpectralOptions(steered=0, pull=0)
    images = random_images(TINY, count=12)
    narrow = narrow_spectral(tiny, batches(images), options)
    for index in range(2):
        widths = replace(TINY.blocks[index], **{structure: 5})
        blocks = tuple(widths if i == index else block for i, block in enumerate(TINY.blocks))
        whole = spectral(tiny, batches(images), replace(TINY, blocks=blocks), options).blocks[index]
        block = narrow(index, structure, 5)
        x = tiny.embed(images)
        torch.testing.assert_close(block(x), whole(x), atol=1e-4, rtol=1e-3)
        assert narrow(index, structure, 5) is not block


def test_blocks_are_narrowed_in_rising_order(tiny: ViT) -> None:
    narrow = narrow_spectral(tiny, batches(random_images(TINY)), SpectralOptions())
    narrow(1, "qk", 4)
    with pytest.raises(ValueError, match="blocks come in rising order, got block 0 after 1"):
        narrow(0, "qk", 4)


@pytest.mark.parametrize("heads", [True, False])
def test_a_narrower_embedding_is_turned_first(heads: bool, tiny: ViT) -> None:
    """Twin: the two steps by hand."""
    images = random_images(TINY, count=12)
    blocks = tuple(replace(block, heads=(0, 2), qk=block.qk[:2], v=block.v[:2]) for block in plan_blocks())
    start = cut(tiny, Plan(tuple(range(24)), blocks)) if heads else None
    target = replace(narrowed((start or tiny).arch, qk=0.5), embed_dim=20)
    told: list[float] = []
    got = spectral(tiny, batches(images), target, SpectralOptions(), told.append, start)
    assert (got.arch.embed_dim, got.arch.norm, got.arch.blocks) == (20, "rms", target.blocks)
    assert told == sorted(told) and told[-1] == 1
    turned = rotate(start or tiny, batches(images), 20)
    expected = spectral(turned, batches(images), replace(turned.arch, blocks=target.blocks))
    torch.testing.assert_close(got(images), expected(images), atol=1e-4, rtol=1e-4)
