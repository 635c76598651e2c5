"""What other families of Vision Transformers have, in the model file and in what reads it."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from analysis.attention import capture, readout
from analysis.attention.relevance import gradients
from analysis.attention.trace import trace
from analysis.measure import cost
from analysis.vit import Architecture, BlockWidths, ViT, by_distance
from tests.support.models import EVERY_PART, FAMILIES, PLACED, TINY, random_images, random_vit


@pytest.fixture(params=[*FAMILIES.values(), EVERY_PART], ids=[*FAMILIES, "every part"])
def family(request) -> ViT:
    return random_vit(request.param)


@pytest.fixture(
    params=[*FAMILIES.values(), EVERY_PART, *PLACED.values()], ids=[*FAMILIES, "every part", *PLACED]
)
def whole(request) -> ViT:
    """Those that merge as well."""
    return random_vit(request.param)


def test_fused_equals_plain_and_json_gives_the_same_model(whole):
    images = random_images(whole.arch)
    with torch.inference_mode():
        fused = whole(images)
        with whole.plain_attention():
            torch.testing.assert_close(whole(images), fused, rtol=1e-4, atol=1e-4)
        again = ViT(Architecture.from_json(whole.arch.to_json())).eval()
        again.load_state_dict(whole.state_dict())
        assert torch.equal(again(images), fused)
    assert fused.shape == (4, whole.arch.num_classes or whole.arch.feature_dim)


def test_cost_is_that_of_the_flop_counter(whole):
    arch = whole.arch
    archs = [arch, *([replace(arch, skip_unread=True)] if arch.pool == "token" else [])]
    for one in archs:
        model = random_vit(one).requires_grad_(False)
        with torch.inference_mode(), model.plain_attention(), FlopCounterMode(display=False) as counter:
            model(random_images(one, 1))
        assert 2 * cost(one).macs == counter.get_total_flops()
        assert cost(one).params == sum(parameter.numel() for parameter in model.parameters())


def test_a_lean_last_block_gives_the_same_logits():
    for name, arch in FAMILIES.items():
        if arch.pool == "token":
            model, lean = random_vit(arch), random_vit(replace(arch, skip_unread=True))
            images = random_images(arch)
            torch.testing.assert_close(lean(images), model(images), rtol=1e-4, atol=1e-4, msg=name)


def test_captured_maps_are_those_that_are_used(whole):
    """softmax(q k) v, normed and projected, is what the attention adds, to merged tokens as well."""
    images = random_images(whole.arch)
    x, sizes = whole.embed(images), None
    with capture(whole) as record, torch.no_grad():
        for captured, block in zip(record(images), whole.blocks, strict=True):
            maps = captured.attention
            torch.testing.assert_close(maps.sum(dim=-1), torch.ones_like(maps[..., 0]))
            heads = (maps @ captured.v).transpose(1, 2).flatten(2)
            added = block.attn.proj(block.attn.norm(heads))
            torch.testing.assert_close(added, block.attn(block.norm1(x), sizes)[0], rtol=1e-4, atol=1e-4)
            x, sizes = block(x, sizes)
        torch.testing.assert_close(record.logits, whole(images), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", PLACED)
def test_a_merged_token_has_the_place_of_the_one_it_was_merged_into(name):
    model = random_vit(PLACED[name])
    images = random_images(model.arch)
    prefix = len(model.arch.prefix_names)
    with capture(model) as record:
        first, second, *_ = record(images)
    assert first.places is None and second.places is not None and second.members is not None
    for image, places in enumerate(second.places):
        assert places[:prefix].tolist() == list(range(prefix))
        token = second.members.token[image]
        for now, place in enumerate(places.tolist()):  # one of its own patches, the only one in an even place
            own = [patch for patch in range(model.arch.num_tokens) if token[patch] == now]
            assert place in own
            assert now < prefix or len(own) == 1 or (place - prefix) % 2 == 0
    attn = model.blocks[1].attn
    dense = torch.randn(len(images), attn.heads, model.arch.num_tokens, attn.qk_dim)
    at = second.places[:, None, :, None].expand(-1, attn.heads, -1, attn.qk_dim)
    thinned = dense.gather(2, at)
    for all_of_them, some in zip(
        attn.placed(dense, dense), attn.placed(thinned, thinned, second.places), strict=True
    ):
        torch.testing.assert_close(some, all_of_them.gather(2, at))
    scores = attn.weights(dense, dense).log()
    few = attn.weights(thinned, thinned, places=second.places).log()
    for image, places in enumerate(second.places):
        expected = scores[image][:, places][:, :, places].log_softmax(dim=-1)
        torch.testing.assert_close(few[image], expected, rtol=1e-4, atol=1e-4)


def test_traces_and_gradients_see_the_same_maps(whole):
    image = random_images(whole.arch, 1)[0]
    seen = trace(whole, image)
    with capture(whole) as record:
        for block in record(image[None]):
            found = seen.attention(block.index)
            torch.testing.assert_close(found, block.patch_attention[0], rtol=1e-4, atol=1e-5)
    read = readout(whole.arch)
    torch.testing.assert_close(read.sum(), torch.tensor(1.0))
    if whole.arch.num_classes:
        gradient = gradients(whole, image, 3)
        assert gradient.relevance(read[None]).isfinite().all()
        for one, queries in zip(gradient._blocks, seen.queries, strict=True):
            assert torch.equal(one.q, queries)


def test_relevance_weights_maps_by_their_gradient(family):
    """dA of the last block, by autograd through attention in plain products."""
    if not family.arch.num_classes:
        return
    image = random_images(family.arch, 1)[0]
    block = family.blocks[-1]
    x = family.embed(image[None])
    for before in family.blocks[:-1]:
        x = before(x)[0]
    q, k, v = block.attn.split_heads(block.attn.qkv(block.norm1(x)))
    maps = block.attn.weights(q, k).detach().requires_grad_()
    heads = (maps @ v).transpose(1, 2).flatten(2)
    behind = x + block.ls1(block.attn.proj(block.attn.norm(heads)))
    behind = behind + block.ls2(block.mlp(block.norm2(behind)))
    logit = family.classify(behind)[0, 2]
    expected = torch.autograd.grad(logit, maps)[0][0] * maps.detach()[0]
    got = gradients(family, image, 2)._blocks[-1].weighted()
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-6)


def test_turning_depends_on_the_distance_of_patches_alone():
    arch = replace(TINY, rope=True, image_size=(32, 40))
    attn = random_vit(arch).blocks[0].attn
    one = torch.randn(2, 1, 3, 1, 8, generator=torch.Generator().manual_seed(0))
    q, k = one.expand(-1, -1, -1, 21, -1)
    q, k = attn.placed(q, k)
    scores = (q @ k.mT)[0, :, 1:, 1:].unflatten(1, (4, 5)).unflatten(3, (4, 5))  # H Y X Y X
    torch.testing.assert_close(scores[:, 1:, 2:, 1:, 2:], scores[:, :-1, :-2, :-1, :-2])
    assert (scores[:, 0, 0] - scores[:, 0, 0, :1, :1]).abs().max() > 0.1
    torch.testing.assert_close(q[:, :, :1], one[0])


def test_every_parameter_learns(whole):
    whole.train()(random_images(whole.arch)).square().mean().backward()
    for name, parameter in whole.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
    assert not any(buffer.requires_grad for buffer in whole.buffers())


def test_the_position_bias_by_a_loop():
    generator = torch.Generator().manual_seed(0)
    for prefix, grid in ((0, (2, 3)), (1, (3, 2)), (3, (1, 4))):
        count = (2 * grid[0] - 1) * (2 * grid[1] - 1)
        table = torch.randn(2, count + 3, generator=generator)
        places = [None] * prefix + [(y, x) for y in range(grid[0]) for x in range(grid[1])]
        found = by_distance(table, grid, prefix)
        for i, query in enumerate(places):
            for j, key in enumerate(places):
                if query is None or key is None:
                    at = count + (2 if query is key else 0 if query is None else 1)
                else:
                    down, across = query[0] - key[0] + grid[0] - 1, query[1] - key[1] + grid[1] - 1
                    at = down * (2 * grid[1] - 1) + across
                assert torch.equal(found[:, i, j], table[:, at])


WRONG: dict[str, dict[str, Any]] = {
    "pool 'both' needs a class token": {"pool": "both", "class_token": False},
    "norm_before_pool false needs pool": {"pool": "both", "norm_before_pool": False},
    "needs pool 'token' or 'avg', and final_norm": {"final_norm": False, "norm_before_pool": False},
    "pool_heads must be a whole number of at least 1": {"pool": "attention"},
    "pool_width must be a multiple of pool_heads": {
        "pool": "attention",
        "pool_heads": 3,
        "pool_width": 8,
        "pool_mlp": 8,
    },
    "belong to pool 'attention'": {"pool_mlp": 8},
    "pool_prefix belongs to pool": {"pool_prefix": True},
    "qk must be even": {"rope": True, "blocks": (BlockWidths(3, 7, 8, 8),)},
    "weights, at most": {
        "position_bias": True,
        "image_size": (1000, 1000),
        "blocks": (BlockWidths(1024, 1, 1, 1),) * 200,
    },
}


@pytest.mark.parametrize("message", WRONG)
def test_what_is_no_network(message):
    with pytest.raises(ValueError, match=message):
        replace(TINY, **WRONG[message])


def test_half_precision_keeps_angles_close():
    model = random_vit(FAMILIES["rotary"])
    images = random_images(model.arch)
    expected = model(images)
    half = model.to(torch.bfloat16)(images.to(torch.bfloat16))
    assert half.dtype == torch.bfloat16
    assert torch.nn.functional.cosine_similarity(half.float(), expected).min() > 0.99
