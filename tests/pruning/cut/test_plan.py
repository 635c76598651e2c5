from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from analysis.vit import BlockWidths
from pruning.cut.plan import BlockPlan, Plan, kept_heads, within_heads
from pruning.cut.surgery import cut
from tests.support.edits import require_refused
from tests.support.models import TINY, random_images, random_vit

BLOCK = BlockPlan(heads=(0, 2), qk=((1, 3), (0, 7)), v=((2,), (5,)), mlp=(0, 1, 31))
PLAN = Plan(embed=(0, 5, 23), blocks=(BLOCK, BLOCK))


def test_says_what_remains() -> None:
    after = PLAN.architecture(TINY)
    assert after.embed_dim == 3
    assert after.blocks == (BlockWidths(2, 2, 1, 3),) * 2
    assert after.scale == TINY.scale


def test_keep_all_is_the_dense_architecture() -> None:
    assert Plan.keep_all(TINY).architecture(TINY) == TINY


def test_survives_json_and_hashes() -> None:
    again = Plan.from_json(PLAN.to_json())
    assert again == PLAN and hash(again) == hash(PLAN)


def test_every_field_is_held_to_its_type(tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    file.write_text(PLAN.to_json())
    assert require_refused(file, lambda: Plan.read(file)) > 200
    old = {name: value for name, value in json.loads(PLAN.to_json()).items() if name != "version"}
    assert Plan.from_json(json.dumps(old)) == PLAN
    with pytest.raises(ValueError, match="a plan must keep at least one index of qk"):
        Plan.from_json(json.dumps(old | {"blocks": [old["blocks"][0] | {"qk": [[], []]}]}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heads": ()}, "one list for each of the 0 kept heads"),
        ({"qk": ((), ())}, "must keep at least one index of qk"),
        ({"mlp": (3, 1)}, "mlp must be in increasing order"),
        ({"mlp": (1, 1)}, "without repeats"),
        ({"mlp": (-1, 1)}, "at least 0"),
        ({"qk": ((1, 3), (0,))}, "same number of qk channels"),
        ({"v": ((1,),)}, "one list for each of the 2 kept heads"),
    ],
)
def test_impossible_blocks_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(BLOCK, **change)


def test_another_models_plan_is_refused() -> None:
    with pytest.raises(ValueError, match="for 2 blocks, the model has 3"):
        PLAN.architecture(replace(TINY, blocks=TINY.blocks + TINY.blocks[:1]))
    with pytest.raises(ValueError, match="keeps embed index 23, but the model has only 12"):
        PLAN.architecture(replace(TINY, embed_dim=12))
    with pytest.raises(ValueError, match="keeps mlp index 31, but the model has only 16"):
        PLAN.architecture(replace(TINY, blocks=(BlockWidths(3, 8, 8, 16),) * 2))


def test_heads_first_then_what_is_inside_them() -> None:
    whole = Plan.keep_all(TINY)
    heads = replace(
        whole,
        blocks=tuple(replace(b, heads=(0, 2), qk=b.qk[:2], v=b.v[:2]) for b in whole.blocks),
    )
    rest = Plan.keep_all(heads.architecture(TINY))
    inner = tuple(replace(b, qk=((1, 3), (0, 7)), mlp=(4, 5)) for b in rest.blocks)
    both = within_heads(heads, replace(rest, blocks=inner))
    assert all(b.heads == (0, 2) and b.qk == ((1, 3), (0, 7)) and b.mlp == (4, 5) for b in both.blocks)
    model, images = random_vit(TINY), random_images(TINY)
    twice = cut(cut(model, heads), replace(rest, blocks=inner))
    torch.testing.assert_close(cut(model, both)(images), twice(images))
    fewer = replace(rest, blocks=tuple(replace(b, heads=(1,), qk=b.qk[:1], v=b.v[:1]) for b in rest.blocks))
    assert all(b.heads == (2,) for b in within_heads(heads, fewer).blocks)
    with pytest.raises(ValueError, match="must be for the 2 heads that the first one keeps, got"):
        within_heads(heads, whole)


def test_heads_that_stay_are_known_by_the_plan_or_where_none_is_gone() -> None:
    small = replace(TINY, blocks=(TINY.blocks[0], replace(TINY.blocks[1], heads=2)))
    assert kept_heads(None, TINY, small) == ((0, 1, 2), None)
    assert kept_heads(PLAN, TINY, PLAN.architecture(TINY)) == ((0, 2), (0, 2))
