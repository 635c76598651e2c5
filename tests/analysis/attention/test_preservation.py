from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from analysis.attention.preservation import preservation, share_moved
from analysis.vit import Architecture, ViT
from pruning.cut.plan import BlockPlan, Plan, kept_heads
from pruning.cut.surgery import cut
from tests.support.models import TINY, random_images, random_vit


def maps_by_hand(model: ViT, image: torch.Tensor) -> list[list[torch.Tensor]]:
    """Per block and head the N x N map of one image, from the rows of `qkv` and plain products."""
    x = model.embed(image[None])
    found = []
    with torch.no_grad():
        for block, widths in zip(model.blocks, model.arch.blocks, strict=True):
            rows = block.attn.qkv(block.norm1(x))[0]  # N rows
            keys = widths.heads * widths.qk
            heads = []
            for head in range(widths.heads):
                begin = head * widths.qk
                q = rows[:, begin : begin + widths.qk]
                k = rows[:, keys + begin : keys + begin + widths.qk]
                scores = (model.arch.scale * q @ k.T).exp()
                heads.append(scores / scores.sum(1, keepdim=True))
            found.append(heads)
            x, _ = block(x)
    return found


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    pairs = list(zip(a.flatten().tolist(), b.flatten().tolist(), strict=True))
    lengths = math.sqrt(sum(x * x for x, _ in pairs)) * math.sqrt(sum(y * y for _, y in pairs))
    return sum(x * y for x, y in pairs) / lengths


def plan_of(arch: Architecture) -> Plan:
    """Removes head 1 of the first block, and pairs everywhere."""
    first, second = arch.blocks
    every = tuple(range(second.heads))
    return Plan(
        tuple(range(arch.embed_dim)),
        (
            BlockPlan((0, 2), ((1, 3), (0, 4)), ((0, 1), (2, 3)), tuple(range(first.mlp))),
            BlockPlan(every, ((0, 2),) * len(every), ((1, 2),) * len(every), tuple(range(second.mlp))),
        ),
    )


@pytest.mark.parametrize("change", [{}, {"distilled": True}, {"registers": 3}, {"pool": "avg"}])
def test_against_maps_by_hand(change: dict[str, Any]) -> None:
    arch = replace(TINY, **change)
    dense, plan = random_vit(arch), plan_of(arch)
    small = cut(dense, plan)
    images = random_images(arch, 5)
    kept = kept_heads(plan, arch, small.arch)
    found = preservation(dense, small, images.split(2), kept)
    by_hand = [(maps_by_hand(dense, image), maps_by_hand(small, image)) for image in images]
    for block in range(2):
        for head in range(3):
            if head not in plan.blocks[block].heads:
                assert found[block][head].isnan()
                continue
            place = plan.blocks[block].heads.index(head)
            values = [cosine(first[block][head], second[block][place]) for first, second in by_hand]
            assert float(found[block][head]) == pytest.approx(sum(values) / 5, abs=1e-5)


def test_a_model_preserves_itself_and_is_left_as_found(tiny: ViT, images: torch.Tensor) -> None:
    other = random_vit(TINY, seed=3).train()
    before = {name: value.clone() for name, value in other.state_dict().items()}
    for values in preservation(tiny, tiny, [images], kept_heads(None, TINY, TINY)):
        torch.testing.assert_close(values, torch.ones(3))
    first, second = preservation(tiny, other, [images], [(2, 0, 1), None])
    assert (first < 1).all() and second.isnan().all()
    assert other.training and not tiny.training
    torch.testing.assert_close(dict(other.state_dict()), before)


def test_what_does_not_fit_is_refused(tiny: ViT, images: torch.Tensor) -> None:
    every = kept_heads(None, TINY, TINY)
    with pytest.raises(ValueError, match="got none"):
        preservation(tiny, tiny, [], every)
    with pytest.raises(
        ValueError, match="same number of blocks and tokens, got 2 blocks with 7 tokens and 2 with 8"
    ):
        preservation(tiny, random_vit(replace(TINY, distilled=True)), [images], every)
    with pytest.raises(ValueError, match="each of the 2 blocks, got 1"):
        preservation(tiny, tiny, [images], every[:1])
    for heads in ((0, 1), (0, 1, 1), (0, 1, 3)):
        with pytest.raises(ValueError, match="block 1 keeps 3 of 3 heads"):
            preservation(tiny, tiny, [images], [(0, 1, 2), heads])


def test_the_share_of_attention_that_moved() -> None:
    """What leaves some patches arrives on others: the sum of what was lost, by loops."""
    generator = torch.Generator().manual_seed(0)
    before, after = (torch.rand(3, 2, 4, generator=generator) for _ in range(2))
    for one, other, moved in zip(before, after, share_moved(before, after), strict=True):
        first, second = (one / one.sum()).flatten().tolist(), (other / other.sum()).flatten().tolist()
        lost = sum(a - b for a, b in zip(first, second, strict=True) if a > b)
        assert float(moved) == pytest.approx(lost, abs=1e-6)
    assert float(share_moved(before[0], 3 * before[0])) == pytest.approx(0, abs=1e-6)
    apart = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0]])
    assert float(share_moved(*apart)) == pytest.approx(1)
