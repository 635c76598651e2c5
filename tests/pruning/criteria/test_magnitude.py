from __future__ import annotations

from typing import Any

import pytest
import torch

from analysis.vit import ViT
from pruning.criteria.magnitude import NoOptions, SeedOptions, gm, l1, l2, random, total_distance
from tests.support import reference
from tests.support.models import VARIANTS, random_vit


@pytest.mark.parametrize("criterion", [l1, l2])
def test_magnitudes_by_loops(criterion, tiny: ViT) -> None:
    scores = criterion(tiny, [], NoOptions())
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
