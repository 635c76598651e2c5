from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from analysis.vit import ViT
from pruning.criteria.magnitude import (
    MagnitudeOptions,
    NoOptions,
    SeedOptions,
    gm,
    l1,
    l2,
    random,
    total_distance,
)
from pruning.cut.plan import Indices, Plan
from pruning.cut.selection import Scores
from pruning.cut.surgery import cut
from tests.support import reference
from tests.support.models import VARIANTS, random_vit, turned


@pytest.mark.parametrize("criterion", [l1, l2])
def test_magnitudes_by_loops(criterion, tiny: ViT) -> None:
    scores = criterion(tiny, [], MagnitudeOptions())
    norm = (
        (lambda row: sum(abs(x) for x in row))
        if criterion is l1
        else (lambda row: sum(x * x for x in row) ** 0.5)
    )
    qkv = tiny.blocks[1].attn.qkv.weight.detach()
    for head in range(3):
        for channel in range(8):
            q, k, v = (qkv[part * 24 + head * 8 + channel].tolist() for part in range(3))
            assert float(scores.qk[1][head, channel]) == pytest.approx(norm(q + k), rel=1e-5)
            assert float(scores.v[1][head, channel]) == pytest.approx(norm(v), rel=1e-5)
    for neuron in (0, 31):
        row = tiny.blocks[0].mlp.fc1.weight.detach()[neuron].tolist()
        assert float(scores.mlp[0][neuron]) == pytest.approx(norm(row), rel=1e-5)
    qk, v = scores.qk[0].sum(1), scores.v[0].sum(1)
    torch.testing.assert_close(scores.heads[0], qk / qk.sum() + v / v.sum())


GROUP = MagnitudeOptions(group=True)


@pytest.mark.parametrize(("criterion", "order"), [(l1, 1), (l2, 2)])
@pytest.mark.parametrize("name", ["plain", "uneven", "no class token"])
def test_norms_of_groups_by_loops(name: str, criterion, order: int) -> None:
    """Rows, biases (the last model has none in `qkv`) and columns, from the layout of the layers."""
    arch = VARIANTS[name]
    model = random_vit(arch)
    scores = criterion(model, [], GROUP)
    state = {key: value.tolist() for key, value in model.state_dict().items()}

    def norm(weights: list[float]) -> float:
        return sum(abs(w) ** order for w in weights) ** (1 / order)

    def row(layer: str, number: int) -> list[float]:
        bias = state.get(f"{layer}.bias")
        return state[f"{layer}.weight"][number] + ([bias[number]] if bias else [])

    def column(layer: str, number: int) -> list[float]:
        return [weights[number] for weights in state[f"{layer}.weight"]]

    for index, widths in enumerate(arch.blocks):
        attn, mlp = f"blocks.{index}.attn", f"blocks.{index}.mlp"
        keys = widths.heads * widths.qk
        for head in range(widths.heads):
            whole: list[float] = []
            for i in range(widths.qk):
                at = head * widths.qk + i
                pair = row(f"{attn}.qkv", at) + row(f"{attn}.qkv", keys + at)
                assert float(scores.qk[index][head, i]) == pytest.approx(norm(pair), rel=1e-5)
                whole += pair
            for i in range(widths.v):
                at = head * widths.v + i
                value = row(f"{attn}.qkv", 2 * keys + at) + column(f"{attn}.proj", at)
                assert float(scores.v[index][head, i]) == pytest.approx(norm(value), rel=1e-5)
                whole += value
            assert float(scores.heads[index][head]) == pytest.approx(norm(whole), rel=1e-5)
        for i in range(widths.mlp):
            neuron = row(f"{mlp}.fc1", i) + column(f"{mlp}.fc2", i)
            assert float(scores.mlp[index][i]) == pytest.approx(norm(neuron), rel=1e-5)


@pytest.mark.parametrize(("criterion", "order"), [(l1, 1), (l2, 2)])
def test_a_group_is_what_a_cut_takes_away(criterion, order: int, variant: ViT) -> None:
    """The sum of |w|^order that a model loses by a cut is that of the groups of all parts that go."""
    scores = criterion(variant, [], GROUP)

    def total(of: ViT) -> float:
        return sum(float(weight.detach().double().abs().pow(order).sum()) for weight in of.parameters())

    for plan, gone in less_by_little(Plan.keep_all(variant.arch), scores):
        lost = total(variant) - total(cut(variant, plan))
        assert float((gone**order).sum()) == pytest.approx(lost, rel=1e-5)


def less_by_little(whole: Plan, scores: Scores) -> Iterator[tuple[Plan, torch.Tensor]]:
    """Plans that remove one channel of the stream, neuron or head, or one channel of every head."""
    yield from ((replace(whole, embed=without(whole.embed, e)), scores.embed[e]) for e in (0, 7, 23))
    for index, block in enumerate(whole.blocks):
        changes: list[tuple[dict[str, Any], torch.Tensor]] = [
            ({"mlp": without(block.mlp, 3)}, scores.mlp[index][3]),
            ({"heads": block.heads[1:], "qk": block.qk[1:], "v": block.v[1:]}, scores.heads[index][0]),
            ({"qk": tuple(without(kept, 2) for kept in block.qk)}, scores.qk[index][:, 2]),
            ({"v": tuple(without(kept, 1) for kept in block.v)}, scores.v[index][:, 1]),
        ]
        for change, gone in changes:
            fewer = [replace(block, **change) if i == index else b for i, b in enumerate(whole.blocks)]
            yield replace(whole, blocks=tuple(fewer)), gone


def without(kept: Indices, number: int) -> Indices:
    return tuple(each for each in kept if each != number)


def test_of_all_norms_only_l2_of_whole_heads_keeps_still_when_channels_are_turned(tiny: ViT) -> None:
    other = turned(tiny, seed=5)

    def apart(criterion, name: str) -> float:
        one, two = (getattr(criterion(model, [], GROUP), name) for model in (tiny, other))
        return max(float(((a - b) / a).abs().max()) for a, b in zip(one, two, strict=True))

    assert apart(l2, "heads") < 1e-5
    assert min(apart(l2, "qk"), apart(l2, "v"), apart(l1, "heads")) > 1e-3
    for index, rows in enumerate(l2(tiny, [], MagnitudeOptions()).v):
        assert (rows - l2(other, [], MagnitudeOptions()).v[index]).abs().max() > 1e-3


def test_total_distance_equals_the_twin() -> None:
    weight = torch.randn(12, 5, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(total_distance(weight), reference.total_distances(weight), atol=0, rtol=1e-6)
    alike = 1 + weight * 1e-3  # rows far from zero and near each other: here digits cancel
    torch.testing.assert_close(total_distance(alike), reference.total_distances(alike), atol=0, rtol=1e-6)
    assert total_distance(weight[:1]).tolist() == [0]


def test_geometric_median_by_loops() -> None:
    arch = VARIANTS["uneven"]
    model = random_vit(arch)
    scores = gm(model, [], NoOptions())
    for block, widths in enumerate(arch.blocks):
        qkv = model.blocks[block].attn.qkv.weight.detach()
        pairs = widths.heads * widths.qk
        rows = torch.cat([qkv[:pairs], qkv[pairs : 2 * pairs]], dim=1)  # query and key of a pair in one row
        torch.testing.assert_close(scores.qk[block].flatten(), reference.total_distances(rows))
        values = reference.total_distances(qkv[2 * pairs :])
        torch.testing.assert_close(scores.v[block].flatten(), values)
        neurons = reference.total_distances(model.blocks[block].mlp.fc1.weight.detach())
        torch.testing.assert_close(scores.mlp[block], neurons)
    writers = [model.patch_embed.proj.weight.detach().flatten(1)]
    writers += [layer.weight.detach() for b in model.blocks for layer in (b.attn.proj, b.mlp.fc2)]
    shares = [(score := reference.total_distances(weight)) / score.sum() for weight in writers]
    torch.testing.assert_close(scores.embed, sum(shares) / len(shares))


def test_random_depends_on_its_seed_alone(tiny: ViT) -> None:
    draw = lambda seed: random(tiny, [], SeedOptions(seed=seed))
    assert torch.equal(draw(3).mlp[1], draw(3).mlp[1])
    assert not torch.equal(draw(3).mlp[1], draw(4).mlp[1])
    assert not torch.equal(draw(3).mlp[0], draw(3).mlp[1])


def test_options_keep_their_range() -> None:
    wrong: dict[str, Any] = {"seed": 1.5}
    with pytest.raises(ValueError, match="seed must be a whole number"):
        SeedOptions(**wrong)
