from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from analysis.measure.cost import cost
from analysis.vit import Architecture, BlockWidths
from pruning.cut.plan import Plan
from pruning.cut.ratios import PRESETS_FILE, Ratios, preset_ratios, presets, read_presets, shrink
from pruning.cut.selection import Scores, select
from tests.support.edits import require_refused
from tests.support.models import TINY


def deit(heads: int) -> Architecture:
    widths = BlockWidths(heads, 64, 64, 256 * heads)
    return Architecture((224, 224), (16, 16), 64 * heads, (widths,) * 12, 1000, 0.125)


@pytest.mark.parametrize(
    ("name", "heads", "gmacs", "params", "embed"),
    [
        ("snp-deit-tiny", 3, "0.6382", "3.013", 153),
        ("snp-deit-small", 6, "2.0370", "10.057", 307),
        ("snp-deit-small-small", 6, "1.2655", "6.470", 345),
        ("snp-deit-base", 12, "6.3223", "31.590", 538),
    ],
)
def test_published_presets(name: str, heads: int, gmacs: str, params: str, embed: int) -> None:
    dense = deit(heads)
    after = shrink(dense, preset_ratios(name, dense))
    costs = cost(after)
    assert (f"{costs.gmacs:.4f}", f"{costs.params / 1e6:.3f}", after.embed_dim) == (gmacs, params, embed)
    assert set(presets()) >= {name}


def test_rounds_halves_up_and_aligns() -> None:
    kept = lambda ratio, align=1: shrink(TINY, Ratios(mlp=ratio), align).blocks[0].mlp  # of 32
    assert [kept(r) for r in (0.0, 0.01, 0.015625, 0.5, 0.98)] == [32, 32, 31, 16, 1]
    assert [kept(r, 8) for r in (0.0, 0.3, 0.36, 0.375, 0.9)] == [32, 24, 24, 24, 8]
    after = shrink(TINY, Ratios(qk=0.5, v=0.4, heads=0.3, embed=0.2), align=4)
    assert after.blocks[0] == BlockWidths(heads=2, qk=4, v=4, mlp=32)
    assert after.embed_dim == 20
    odd = shrink(replace(TINY, blocks=(BlockWidths(3, 5, 8, 32),)), Ratios(), align=8)
    assert odd.blocks[0].qk == 5  # never wider than dense


def test_one_number_per_block() -> None:
    after = shrink(TINY, Ratios(qk=(0.5, 0.25)))
    assert [widths.qk for widths in after.blocks] == [4, 6]


@pytest.mark.parametrize("name", ["qk", "v", "mlp", "heads", "embed"])
@pytest.mark.parametrize("value", [1, 1.0, -0.1, 2, float("nan"), float("inf"), "half", None, True])
def test_impossible_ratios_are_refused(name: str, value: object) -> None:
    number = type(value) in (int, float)
    must = f"ratio {name} must be at least 0 and below 1" if number else f"`{name}` must be a number"
    wrong: dict[str, Any] = {name: value}
    with pytest.raises(ValueError, match=must):
        Ratios(**wrong)


def test_presets_are_held_to_their_types(tmp_path: Path) -> None:
    file = tmp_path / "presets.json"
    file.write_bytes(PRESETS_FILE.read_bytes())
    assert read_presets(file) == presets()
    assert require_refused(file, lambda: read_presets(file), [r"[\w-]+: missing"]) > 200
    data = json.loads(file.read_text())
    file.write_text(json.dumps({name: preset for name, preset in data.items() if name != "version"}))
    assert read_presets(file) == presets()
    file.write_text(json.dumps(data | {"version": 2}))
    with pytest.raises(ValueError, match=r"presets\.json was written by a later PruneScope"):
        read_presets(file)
    data["snp-deit-tiny"]["qk"][0] = 1.5
    file.write_text(json.dumps(data))
    with pytest.raises(ValueError, match=r"presets\.json: `snp-deit-tiny`: ratio qk must be at least 0"):
        read_presets(file)


@pytest.mark.parametrize(
    ("ratios", "align", "message"),
    [
        (Ratios(heads=0.9), 1, r"removing 0.9 leaves nothing of heads of block 0 \(width 3\)"),
        (Ratios(qk=0.99), 1, "leaves nothing of qk of block 0"),
        (Ratios(embed=0.99), 1, "leaves nothing of embed"),
        (Ratios(qk=(0.1, 0.1, 0.1)), 1, "ratio qk has 3 numbers, but the model has 2 blocks"),
        (Ratios(), 0, "align must be a whole number of at least 1"),
    ],
)
def test_what_leaves_nothing_is_refused(ratios: Ratios, align: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        shrink(TINY, ratios, align)


def test_too_few_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="ratio v needs one number, or one per block, got none"):
        Ratios(v=())


def test_presets_are_for_their_model_only() -> None:
    with pytest.raises(ValueError, match="snp-deit-tiny is for 12 blocks of embedding width 192"):
        preset_ratios("snp-deit-tiny", deit(6))
    with pytest.raises(ValueError, match="there is no preset 'snp'; available are snp-deit-tiny"):
        preset_ratios("snp", TINY)


def make_scores(seed: int = 0) -> Scores:
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: tuple(torch.rand(*shape, generator=generator) for _ in range(2))
    return Scores(draw(3, 8), draw(3, 8), draw(32), draw(3), torch.rand(24, generator=generator))


def test_keeps_the_highest_against_sorting() -> None:
    scores = make_scores()
    target = shrink(TINY, Ratios(qk=0.5, v=0.25, mlp=0.4, heads=0.3, embed=0.25))
    plan = select(scores, TINY, target)
    best = lambda values, count: tuple(sorted(sorted(range(len(values)), key=lambda i: -values[i])[:count]))
    assert plan.embed == best(scores.embed.tolist(), 18)
    for index, block in enumerate(plan.blocks):
        assert block.heads == best(scores.heads[index].tolist(), 2)
        assert block.mlp == best(scores.mlp[index].tolist(), 19)
        for position, head in enumerate(block.heads):
            assert block.qk[position] == best(scores.qk[index][head].tolist(), 4)
            assert block.v[position] == best(scores.v[index][head].tolist(), 6)


def test_equal_scores_keep_the_lower_index() -> None:
    ones = lambda *shape: (torch.ones(shape),) * 2
    flat = Scores(ones(3, 8), ones(3, 8), ones(32), ones(3), torch.ones(24))
    plan = select(flat, TINY, shrink(TINY, Ratios(0.5, 0.5, 0.5, embed=0.5, heads=0.34)))
    assert plan.embed == tuple(range(12))
    for block in plan.blocks:
        assert block.heads == (0, 1) and block.mlp == tuple(range(16))
        assert set(block.qk) == set(block.v) == {(0, 1, 2, 3)}


def test_many_equal_scores_keep_the_lowest_indices() -> None:
    """So many that a sort which does not keep their order would show it."""
    wide = replace(TINY, blocks=(BlockWidths(1, 1, 1, 5000),))
    ones = lambda *shape: (torch.ones(shape),)
    flat = Scores(ones(1, 1), ones(1, 1), ones(5000), ones(1), torch.ones(24))
    plan = select(flat, wide, shrink(wide, Ratios(mlp=0.4)))
    assert plan.blocks[0].mlp == tuple(range(3000))


def test_keeping_everything_needs_no_scores_to_agree() -> None:
    assert select(make_scores(), TINY, TINY) == Plan.keep_all(TINY)


def test_bad_scores_are_refused() -> None:
    scores = make_scores()
    with pytest.raises(ValueError, match="scores must be finite"):
        select(replace(scores, embed=torch.full((24,), torch.nan)), TINY, TINY)
    with pytest.raises(ValueError, match=r"expected 24 scores, got \(7,\)"):
        select(replace(scores, embed=torch.ones(7)), TINY, TINY)
    with pytest.raises(ValueError, match="cannot keep 48 of 24"):
        select(scores, TINY, replace(TINY, embed_dim=48))
