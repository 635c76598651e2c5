"""Maps of one image against the attention matrices themselves."""

from __future__ import annotations

import pytest
import torch

from analysis.attention.capture import capture
from analysis.attention.maps import (
    attention_maps,
    default_row,
    rollout_maps,
    rollout_of,
    row_readings,
    token_maps,
)
from analysis.attention.rollout import rollout
from analysis.attention.trace import held_bytes, mean_of_patches, one_token, token_names, trace
from analysis.vit import Architecture, BlockWidths, ViT


def model(**changes: object) -> ViT:
    settings: dict[str, object] = {
        "image_size": (16, 24),
        "patch_size": (8, 8),
        "embed_dim": 12,
        "blocks": (BlockWidths(2, 6, 6, 16), BlockWidths(3, 4, 5, 8)),
        "num_classes": 7,
        "scale": 6**-0.5,
        "registers": 2,
    }
    torch.manual_seed(0)
    vit = ViT(Architecture(**(settings | changes)))  # type: ignore[arg-type]
    vit.init_weights()
    for parameter in vit.parameters():
        parameter.data.mul_(8)  # attention far from uniform
    return vit.eval()


def attention(vit: ViT, image: torch.Tensor) -> list[torch.Tensor]:
    with capture(vit) as record:
        return [block.attention for block in record(image[None])]


@pytest.fixture
def image() -> torch.Tensor:
    return torch.randn(3, 16, 24, generator=torch.Generator().manual_seed(1))


def test_maps_are_the_rows_of_the_attention(image: torch.Tensor) -> None:
    vit = model()
    found = attention_maps(vit, image)
    for maps, on_prefix, full in zip(found.blocks, found.on_prefix, attention(vit, image), strict=True):
        for head in range(full.shape[1]):
            for row in range(4):
                # rows: class, two registers, mean of the six patches; patches 3 to a line
                whole = full[0, head, row] if row < 3 else full[0, head, 3:].mean(dim=0)
                for y in range(2):
                    for x in range(3):
                        torch.testing.assert_close(maps[head, row, y, x], whole[3 + 3 * y + x])
                torch.testing.assert_close(on_prefix[head, row], whole[:3].sum())


def test_probabilities_are_those_of_the_model(image: torch.Tensor) -> None:
    vit = model()
    found = trace(vit, image)
    expected = vit(image[None]).softmax(-1)[0].detach()
    torch.testing.assert_close(found.probabilities, expected)
    top = found.top(3)
    assert [index for index, _ in top] == expected.argsort(descending=True)[:3].tolist()
    assert len(found.top(99)) == 7


def test_of_equally_likely_classes_the_first_come_first(image: torch.Tensor) -> None:
    vit = model(num_classes=40)
    for name in ("head.weight", "head.bias"):
        vit.get_parameter(name).data.zero_()
    assert [index for index, _ in trace(vit, image).top(30)] == list(range(30))


def test_a_model_without_classes_has_no_probabilities(image: torch.Tensor) -> None:
    assert trace(model(num_classes=0), image).top() == []


def test_a_trace_holds_what_the_blocks_computed_and_no_more(image: torch.Tensor) -> None:
    vit = model()
    found = trace(vit, image)
    for block, full in enumerate(attention(vit, image)):
        torch.testing.assert_close(found.attention(block), full[0])
    held = sum(part.untyped_storage().nbytes() for part in (*found.queries, *found.keys, found.logits))
    assert held_bytes(vit.arch) == held


@pytest.mark.parametrize("token", [0, 2, 3, 7])
def test_a_token_looks_by_its_row_and_is_seen_by_its_column(token: int, image: torch.Tensor) -> None:
    vit = model()
    found = token_maps(trace(vit, image), one_token(vit.arch, token))
    for block, full in enumerate(attention(vit, image)):
        for head in range(full.shape[1]):
            for y in range(2):
                for x in range(3):
                    patch = 3 + 3 * y + x
                    torch.testing.assert_close(found.looks[block][head, y, x], full[0, head, token, patch])
                    torch.testing.assert_close(found.seen[block][head, y, x], full[0, head, patch, token])
            torch.testing.assert_close(found.on_prefix[block][head], full[0, head, token, :3].sum())


def test_the_mean_over_patches_is_the_mean_of_their_maps(image: torch.Tensor) -> None:
    vit = model()
    seen = trace(vit, image)
    found = token_maps(seen, mean_of_patches(vit.arch))
    each = [token_maps(seen, one_token(vit.arch, token)) for token in range(3, 9)]
    for block in range(2):
        for name in ("looks", "seen", "on_prefix"):
            parts = torch.stack([getattr(maps, name)[block] for maps in each])
            torch.testing.assert_close(getattr(found, name)[block], parts.mean(0))


def test_tokens_are_named_and_numbered_as_they_lie_in_the_image() -> None:
    arch = model().arch
    assert token_names(arch)[:5] == ("class", "register 1", "register 2", "patch 0, 0", "patch 0, 1")
    assert token_names(arch)[-1] == "patch 1, 2" and len(token_names(arch)) == arch.num_tokens
    with pytest.raises(ValueError, match="numbered 0 to 8, got 9"):
        one_token(arch, 9)


@pytest.mark.parametrize(
    ("changes", "prefix", "read"),
    [
        ({}, ("class", "register 1", "register 2"), 0),
        ({"distilled": True, "registers": 0}, ("class", "distillation"), 0),
        ({"pool": "avg", "registers": 0}, ("class",), 1),
        ({"pool": "avg", "class_token": False, "registers": 0}, (), 0),
    ],
)
def test_rows_are_each_prefix_token_and_the_mean_of_patches_and_the_default_is_what_is_classified(
    changes: dict[str, object], prefix: tuple[str, ...], read: int, image: torch.Tensor
) -> None:
    vit = model(**changes)
    assert token_names(vit.arch)[: len(prefix)] == prefix
    expected = [one_token(vit.arch, token) for token in range(len(prefix))] + [mean_of_patches(vit.arch)]
    assert torch.equal(row_readings(vit.arch), torch.stack(expected))
    assert default_row(vit.arch) == read
    assert attention_maps(vit, image).blocks[0].shape == (2, len(prefix) + 1, 2, 3)


def test_rollout_maps_are_those_of_the_mean_over_heads(image: torch.Tensor) -> None:
    vit = model()
    got = rollout_of(trace(vit, image), row_readings(vit.arch), fuse="mean", discard=0.0, blocks=2)
    assert torch.equal(rollout_maps(vit, image), got)


@pytest.mark.parametrize("blocks", [1, 2, None])
def test_rollout_stops_where_it_is_told(blocks: int | None, image: torch.Tensor) -> None:
    vit = model()
    full = rollout(attention(vit, image)[:blocks], fuse="max", discard=0.3, prefix=3)[0]
    found = rollout_of(trace(vit, image), row_readings(vit.arch), fuse="max", discard=0.3, blocks=blocks)
    torch.testing.assert_close(found[0].flatten(), full[0, 3:])
    torch.testing.assert_close(found[3].flatten(), full[3:, 3:].mean(0))


@pytest.mark.parametrize("blocks", [0, 3])
def test_rollout_refuses_blocks_that_are_not_there(blocks: int, image: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="1 to 2 blocks"):
        vit = model()
        rollout_of(trace(vit, image), row_readings(vit.arch), blocks=blocks)


def test_reading_leaves_the_model_as_it_was(image: torch.Tensor) -> None:
    vit = model().train()
    before = {name: value.clone() for name, value in vit.state_dict().items()}
    attention_maps(vit, image)
    rollout_maps(vit, image)
    assert vit.training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in vit.modules())
    torch.testing.assert_close(dict(vit.state_dict()), before)
