from __future__ import annotations

import math

import pytest
import torch

from analysis.heads import graph
from analysis.heads.graph import similarities, stationary, transition
from analysis.vit import BlockWidths, ViT
from tests.support.models import TINY, VARIANTS, batches, random_images, random_vit
from tests.support.reference import added_by_heads, cka_twin, cosine_twin, maps_and_outputs, overlap_twin


def weights(heads: int = 5, *, symmetric: bool, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    square = torch.rand(heads, heads, generator=generator, dtype=torch.float64)
    square = (square + square.T) / 2 if symmetric else square
    return square.fill_diagonal_(0)


def predictability_twin(outputs: torch.Tensor, i: int, j: int) -> float:
    """Ridge as ordinary least squares on data with extra rows, and R^2 from the residuals."""
    y, z = (outputs[:, head].flatten(0, 1) for head in (i, j))  # tokens D
    y, z = y - y.mean(dim=0), z - z.mean(dim=0)
    strength = 1e-3 * float(z.pow(2).mean()) * len(z)
    width = z.shape[1]
    padded_z = torch.cat([z, math.sqrt(strength) * torch.eye(width, dtype=z.dtype)])
    padded_y = torch.cat([y, torch.zeros(width, y.shape[1], dtype=y.dtype)])
    fit = torch.linalg.lstsq(padded_z, padded_y).solution
    return 1 - float((y - z @ fit).pow(2).sum() / y.pow(2).sum())


def read(model: ViT, images: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Per block: maps, outputs, and what the heads add to the stream."""
    pairs = zip(maps_and_outputs(model, images), added_by_heads(model, images), strict=True)
    return [(*both, added) for both, added in pairs]


@pytest.mark.parametrize(
    ("kind", "twin", "reads"),
    [
        ("cosine", cosine_twin, 2),
        ("cka", cka_twin, 2),
        ("attention", overlap_twin, 0),
        ("predictability", predictability_twin, 1),
    ],
)
def test_similarities_equal_the_twins_on_every_architecture(kind, twin, reads, variant: ViT) -> None:
    images = random_images(variant.arch, count=3)
    got = similarities(variant, batches(images, 2), kind)
    for index, block in enumerate(read(variant, images)):
        heads = variant.arch.blocks[index].heads
        expected = torch.zeros(heads, heads, dtype=torch.float64)
        for i in range(heads):
            for j in range(heads):
                expected[i, j] = twin(block[reads], i, j) if i != j else 0.0
        torch.testing.assert_close(got[index], expected, atol=2e-5, rtol=1e-4)
        if kind == "predictability":
            assert (got[index] - got[index].T).abs().max() > 1e-4
        else:
            assert torch.equal(got[index], got[index].T)
        assert got[index].min() >= 0 and got[index].max() <= 1


@pytest.mark.parametrize(
    ("kind", "twin", "reads"),
    [("cosine", cosine_twin, 2), ("cka", cka_twin, 2), ("attention", overlap_twin, 0)],
)
@pytest.mark.usefixtures("rough_products")
def test_they_are_symmetric_where_a_product_is_not(kind, twin, reads) -> None:
    test_similarities_equal_the_twins_on_every_architecture(kind, twin, reads, random_vit(VARIANTS["uneven"]))


@pytest.mark.parametrize("kind", graph.SIMILARITIES)
def test_batching_changes_nothing_and_the_model_is_untouched(kind: str, tiny: ViT) -> None:
    images = random_images(TINY, count=5)
    before = {name: value.clone() for name, value in tiny.state_dict().items()}
    tiny.train()
    for one, other in zip(
        similarities(tiny, iter(batches(images, 5)), kind),
        similarities(tiny, iter(batches(images, 2)), kind),
        strict=True,
    ):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-6)
    assert tiny.training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in tiny.modules())
    for name, value in tiny.state_dict().items():
        assert torch.equal(value, before[name]), name


def with_head_copied(sign: float) -> ViT:
    """Head 2 of block 0 computes what head 0 does, up to a sign."""
    model = random_vit(TINY)
    with torch.no_grad():
        for parameter in (model.blocks[0].attn.qkv.weight, model.blocks[0].attn.qkv.bias):
            rows = parameter.view(3, 3, 8, -1)  # q, k, v; head; channel
            rows[:2, 2] = rows[:2, 0]
            rows[2, 2] = sign * rows[2, 0]
        columns = model.blocks[0].attn.proj.weight.view(-1, 3, 8)
        columns[:, 2] = columns[:, 0]
    return model


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("kind", graph.SIMILARITIES)
def test_a_copy_is_entirely_alike_and_so_is_its_opposite(kind: str, sign: float) -> None:
    found = similarities(with_head_copied(sign), batches(random_images(TINY, 8)), kind)[0]
    assert float(found[0, 2]) == pytest.approx(1, abs=5e-3)
    assert float(found[2, 0]) == pytest.approx(1, abs=5e-3)
    assert found[0, 1] < 0.99


@pytest.mark.parametrize(
    ("kind", "constant"),
    [("cosine", 0), ("cka", 0), ("cka", 3.7), ("predictability", 0), ("predictability", 3.7)],
)
def test_a_dead_head_resembles_none(kind: str, constant: float, tiny: ViT) -> None:
    with torch.no_grad():
        tiny.blocks[0].attn.qkv.weight[48 + 8 : 48 + 16] = 0  # values of head 1
        tiny.blocks[0].attn.qkv.bias[48 + 8 : 48 + 16] = constant
    found = similarities(tiny, batches(random_images(TINY)), kind)[0]
    assert (found[1] == 0).all() and (found[:, 1] == 0).all()
    assert found[0, 2] > 0
    assert float(stationary(transition(found, 0.15)).sum()) == pytest.approx(1)


def test_a_single_head_has_all_the_mass() -> None:
    arch = type(TINY)(**{**TINY.__dict__, "blocks": (BlockWidths(1, 8, 8, 32),)})
    for kind in graph.SIMILARITIES:
        (found,) = similarities(random_vit(arch), batches(random_images(arch)), kind)
        assert found.shape == (1, 1) and found == 0
        assert stationary(transition(found)).tolist() == [1.0]


# ---- the chain


@pytest.mark.parametrize("heads", [2, 3, 6, 12])
def test_symmetric_weights_without_teleport_give_the_degree(heads: int) -> None:
    """Theorem: detailed balance, pi_i P_ij = w_ij / total = pi_j P_ji."""
    square = weights(heads, symmetric=True)
    expected = square.sum(dim=1) / square.sum()
    torch.testing.assert_close(stationary(transition(square)), expected, atol=1e-10, rtol=0)


def test_asymmetric_weights_do_not() -> None:
    square = weights(symmetric=False)
    found = stationary(transition(square))
    assert (found - square.sum(dim=1) / square.sum()).abs().max() > 1e-2
    assert (found - square.sum(dim=0) / square.sum()).abs().max() > 1e-3


@pytest.mark.parametrize("teleport", [0.0, 0.15, 1.0])
@pytest.mark.parametrize("symmetric", [True, False])
def test_stationary_against_eigenvectors_powers_and_pagerank(teleport: float, symmetric: bool) -> None:
    square = weights(6, symmetric=symmetric, seed=3)
    chain = transition(square, teleport)
    torch.testing.assert_close(chain.sum(dim=1), torch.ones(6, dtype=torch.float64))
    found = stationary(chain)
    assert float(found.sum()) == pytest.approx(1, abs=1e-14)
    torch.testing.assert_close(found @ chain, found, atol=1e-12, rtol=0)
    values, vectors = torch.linalg.eig(chain.T)
    leading = vectors[:, values.real.argmax()].real
    torch.testing.assert_close(found, leading / leading.sum(), atol=1e-10, rtol=0)
    torch.testing.assert_close(torch.linalg.matrix_power(chain, 2000)[0], found, atol=1e-10, rtol=0)


def test_teleport_is_pageranks() -> None:
    """By Google's matrix in plain loops, dangling node included."""
    square = weights(6, symmetric=False, seed=4)
    square[2] = 0
    rank = [1 / 6] * 6
    for _ in range(500):
        moved = [0.0] * 6
        for here in range(6):
            leads = [float(square[here][there]) if there != here else 0.0 for there in range(6)]
            for there in range(6):
                share = leads[there] / sum(leads) if any(leads) else 1 / 6
                moved[there] += rank[here] * (0.85 * share + 0.15 / 6)
        rank = moved
    expected = torch.tensor(rank, dtype=torch.float64)
    torch.testing.assert_close(stationary(transition(square, 0.15)), expected, atol=1e-10, rtol=0)


@pytest.mark.parametrize("symmetric", [True, False])
def test_renaming_heads_renames_the_mass(symmetric: bool) -> None:
    square, order = weights(5, symmetric=symmetric), torch.tensor([3, 0, 4, 1, 2])
    moved = stationary(transition(square[order][:, order], 0.1))
    torch.testing.assert_close(moved, stationary(transition(square, 0.1))[order], atol=1e-11, rtol=0)


def test_loops_make_no_difference() -> None:
    square = weights(symmetric=False)
    looped = square + torch.eye(5, dtype=square.dtype)
    assert torch.equal(transition(square, 0.1), transition(looped, 0.1))


def test_a_periodic_chain_converges_to_its_degree() -> None:
    """A star goes round with period two: P^n never settles."""
    star = torch.zeros(4, 4, dtype=torch.float64)
    star[0, 1:] = star[1:, 0] = torch.tensor([1.0, 2.0, 3.0])
    expected = torch.tensor([6, 1, 2, 3], dtype=torch.float64) / 12
    torch.testing.assert_close(stationary(transition(star)), expected, atol=1e-10, rtol=0)


def test_heads_nothing_leads_to_have_no_mass() -> None:
    """One way from 0 to the pair 1, 2: transient, and not refused."""
    square = torch.tensor([[0, 1, 1], [0, 0, 1], [0, 1, 0]], dtype=torch.float64)
    torch.testing.assert_close(
        stationary(transition(square)), torch.tensor([0, 0.5, 0.5], dtype=torch.float64), atol=1e-9, rtol=0
    )


def test_a_chain_in_pieces_is_refused_and_teleport_mends_it() -> None:
    pieces = torch.zeros(4, 4)
    pieces[0, 1] = pieces[1, 0] = pieces[2, 3] = pieces[3, 2] = 1
    with pytest.raises(ValueError, match=r"disconnected groups .* use a teleport above 0"):
        stationary(transition(pieces))
    torch.testing.assert_close(
        stationary(transition(pieces, 0.1)), torch.full((4,), 0.25, dtype=torch.float64)
    )


def test_a_chain_that_takes_too_long_is_refused() -> None:
    nearly = torch.zeros(4, 4, dtype=torch.float64)
    nearly[0, 1] = nearly[1, 0] = nearly[2, 3] = nearly[3, 2] = 1
    nearly[1, 2] = 1e-6
    nearly[2, 1] = 3e-6
    with pytest.raises(ValueError, match="did not converge to 1e-12 within 100 iterations"):
        stationary(transition(nearly), iterations=100)


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: transition(torch.ones(2, 3)), r"square matrix of weights, got shape \(2, 3\)"),
        (lambda: transition(-torch.ones(2, 2)), "finite and at least 0"),
        (lambda: transition(torch.full((2, 2), torch.nan)), "finite and at least 0"),
        (lambda: transition(torch.ones(2, 2), 1.5), "teleport must be from 0 to 1, got 1.5"),
        (lambda: stationary(torch.ones(2, 2)), "every row of a transition matrix must sum to 1"),
        (lambda: similarities(random_vit(TINY), [], "cosine"), "head graph needs calibration images"),
        (
            lambda: similarities(random_vit(TINY), [], "looks"),
            "similarity must be one of cosine, cka, attention",
        ),
    ],
)
def test_bad_input_is_refused(act, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        act()


def test_weights_that_are_not_finite_are_refused(tiny: ViT) -> None:
    with torch.no_grad():
        tiny.blocks[0].attn.qkv.weight[-1, 0] = torch.nan
    for kind in ("cosine", "predictability"):
        with pytest.raises(ValueError, match=r"must be finite; check the model's weights"):
            similarities(tiny, batches(random_images(TINY)), kind)
