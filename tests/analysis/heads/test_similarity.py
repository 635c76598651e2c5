from __future__ import annotations

import itertools
import math

import pytest
import torch

from analysis.attention.capture import capture
from analysis.heads import similarity
from analysis.heads.graph import SIMILARITIES, similarities
from analysis.vit import ViT
from tests.support.models import VARIANTS, batches, random_images, random_vit
from tests.support.reference import added_by_heads, cosine_twin, maps_and_outputs, overlap_twin


def read(model: ViT, kind: str, data) -> torch.Tensor:
    gathered = similarity.AllHeads(model.arch, kind)
    with capture(model) as record:
        for images, _ in data:
            for block in record(images):
                gathered.add(block)
    return gathered.weights()


@pytest.mark.parametrize("kind", SIMILARITIES)
def test_within_a_block_it_is_the_head_graph(kind: str, variant: ViT) -> None:
    data = batches(random_images(variant.arch, count=3), 2)
    counts = [widths.heads for widths in variant.arch.blocks]
    found = similarity.diagonal_blocks(read(variant, kind, data), counts)
    for got, expected in zip(found, similarities(variant, data, kind), strict=True):
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("name", ["plain", "uneven", "registers"])
@pytest.mark.parametrize(("kind", "twin"), [("cosine", cosine_twin), ("attention", overlap_twin)])
def test_across_blocks_it_equals_the_twins(kind, twin, name: str) -> None:
    model = random_vit(VARIANTS[name])
    images = random_images(model.arch, count=3)
    got = read(model, kind, batches(images, 2))
    assert torch.equal(got, got.T) and not got.diagonal().any()
    maps = [each[0] for each in maps_and_outputs(model, images)]
    parts = added_by_heads(model, images) if kind == "cosine" else maps
    every = torch.cat(parts, dim=1)
    names = similarity.head_names(model.arch)
    assert len(names) == len(got) == every.shape[1]
    for i, j in itertools.combinations(range(len(names)), 2):
        assert float(got[i, j]) == pytest.approx(twin(every, i, j), abs=2e-5, rel=1e-4)


@pytest.mark.parametrize(("kind", "twin"), [("cosine", cosine_twin), ("attention", overlap_twin)])
@pytest.mark.usefixtures("rough_products")
def test_they_are_symmetric_where_a_product_is_not(kind, twin) -> None:
    test_across_blocks_it_equals_the_twins(kind, twin, "uneven")


@pytest.mark.parametrize("kind", ["predictability", "cka"])
def test_some_are_not_known_across_blocks(kind: str, tiny: ViT) -> None:
    got = read(tiny, kind, batches(random_images(tiny.arch, 8)))
    assert not got[:3, 3:].any() and not got[3:, :3].any() and got[:3, :3].any()


def test_maps_of_many_rows_are_compared_on_some(tiny: ViT, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(similarity, "QUERIES", 3)
    images = random_images(tiny.arch, count=2)
    got = read(tiny, "attention", batches(images))
    maps = torch.cat([each[0] for each in maps_and_outputs(tiny, images)], dim=1)
    rows = [0, 3, 6]  # of seven tokens
    assert float(got[0, 4]) == pytest.approx(overlap_twin(maps[:, :, rows], 0, 4), abs=2e-5)


def test_not_finite_is_refused(tiny: ViT) -> None:
    with torch.no_grad():
        tiny.blocks[1].attn.qkv.weight[-1] = math.nan  # a value channel
    with pytest.raises(ValueError, match="similarities of heads must be finite"):
        read(tiny, "cosine", batches(random_images(tiny.arch)))


# ---- neighbours, groups, edges, layout


def alike_in(*groups: tuple[int, ...], inside: float = 0.9, outside: float = 0.1) -> torch.Tensor:
    size = sum(map(len, groups))
    weights = torch.full((size, size), outside, dtype=torch.float64)
    for group in groups:
        for i, j in itertools.permutations(group, 2):
            weights[i, j] = inside
    return weights.fill_diagonal_(0)


def test_groups_that_are_there_are_found() -> None:
    weights = alike_in((0, 3, 4), (1, 6, 7), (2, 5))
    assert similarity.groups(weights) == [0, 1, 2, 0, 0, 2, 1, 1]
    assert similarity.groups(weights, threshold=0.95) == list(range(8))
    assert similarity.groups(torch.zeros(1, 1)) == [0]


def modularity(weights: torch.Tensor, groups: list[int]) -> float:
    """Newman's modularity from its sum over all pairs."""
    total = 0.0
    degree = [float(row.sum()) for row in weights]
    twice = sum(degree)
    for i, j in itertools.product(range(len(weights)), repeat=2):
        if groups[i] == groups[j]:
            total += float(weights[i, j]) - degree[i] * degree[j] / twice
    return total / twice


@pytest.mark.parametrize("seed", range(4))
def test_groups_are_about_as_modular_as_can_be(seed: int) -> None:
    """Twin: all ways to divide five heads; Louvain's method is a heuristic, but a good one."""
    weights = torch.rand(5, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) ** 3
    weights = ((weights + weights.T) / 2).fill_diagonal_(0)
    every = [list(groups) for groups in itertools.product(range(5), repeat=5) if groups[0] == 0]
    best = max(modularity(weights, groups) for groups in every)
    assert modularity(weights, similarity.groups(weights)) >= best - 0.03


def test_edges_and_neighbours_count_both_directions() -> None:
    weights = torch.tensor([[0.0, 0.8, 0.2], [0.4, 0.0, 0.0], [0.2, 0.0, 0.0]], dtype=torch.float64)
    assert similarity.edges(weights, 0.0) == [(0, 1, pytest.approx(0.6)), (0, 2, pytest.approx(0.2))]
    assert (
        similarity.edges(weights, 0.5)
        == similarity.edges(weights, 0.0, most=1)
        == [(0, 1, pytest.approx(0.6))]
    )
    assert similarity.nearest(weights, 0, 5) == [(1, pytest.approx(0.6)), (2, pytest.approx(0.2))]
    assert similarity.nearest(weights, 1, 5) == [(0, pytest.approx(0.6))]


def test_a_layout_puts_like_heads_together() -> None:
    weights = alike_in((0, 2, 4, 6), (1, 3, 5, 7), outside=0.05)
    places = similarity.layout(weights)
    assert places == similarity.layout(weights)
    assert all(math.isfinite(x) and -1.01 <= x <= 1.01 for place in places for x in place)
    near = max(math.dist(places[0], places[i]) for i in (2, 4, 6))
    assert near < min(math.dist(places[0], places[i]) for i in (1, 3, 5, 7))
    apart = min(math.dist(*pair) for pair in itertools.combinations(places, 2))
    assert apart > 0.5 * 2 / len(places) ** 0.5
    assert len(similarity.layout(torch.zeros(1, 1))) == 1
    assert len(set(similarity.layout(torch.zeros(4, 4)))) == 4
