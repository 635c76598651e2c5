"""Blocks that merge tokens, and blocks of which a half is absent."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from analysis.measure import cost
from analysis.vit import Architecture, BlockWidths, Merge, ViT
from tests.support.merging import read_weights
from tests.support.models import SHORTER, TINY, random_images, random_vit


@pytest.fixture(params=SHORTER.values(), ids=list(SHORTER))
def shorter(request: pytest.FixtureRequest) -> ViT:
    return random_vit(request.param)


def logits_in_loops(model: ViT, image: Tensor) -> Tensor:
    """The twin: one image, token by token, in float64."""
    own = copy.deepcopy(model).double()
    arch, prefix = own.arch, len(own.arch.prefix_names)
    tokens = list(own.embed(image[None].double())[0])
    sizes = [1.0] * len(tokens)
    for block, widths in zip(own.blocks, arch.blocks, strict=True):
        if block.attn is not None:
            added, read = attention_in_loops(own, block, widths, tokens, sizes)
            tokens = [x + block.ls1(more) for x, more in zip(tokens, added, strict=True)]
            if widths.merge:
                tokens, sizes = merged_in_loops(arch, tokens, sizes, read, widths.merge)
        if block.mlp is not None:
            tokens = [x + block.ls2(block.mlp(block.norm2(x))) for x in tokens]
    normed = [own.norm(x) for x in tokens]
    if own.head_dist is not None:
        return (own.head(normed[0]) + own.head_dist(normed[1])) / 2
    pooled = normed[0]
    if arch.pool == "avg":
        pooled = sum(s * x for s, x in zip(sizes[prefix:], normed[prefix:], strict=True)) / sum(
            sizes[prefix:]
        )
    return own.head(own.fc_norm(pooled))


def attention_in_loops(own, block, widths: BlockWidths, tokens, sizes) -> tuple[list[Tensor], list[float]]:
    """What attention adds to each token, and how much the first token attends to each, over the heads."""
    rows = [block.attn.qkv(block.norm1(x)) for x in tokens]
    heads, qk, v = widths.heads, widths.qk, widths.v
    outputs: list[list[Tensor]] = [[] for _ in tokens]
    read = [0.0] * len(tokens)
    for head in range(heads):
        q = [row[head * qk : (head + 1) * qk] for row in rows]
        k = [row[(heads + head) * qk : (heads + head + 1) * qk] for row in rows]
        values = [row[2 * heads * qk + head * v : 2 * heads * qk + (head + 1) * v] for row in rows]
        for i, query in enumerate(q):
            scores = [float(query @ key) * own.arch.scale for key in k]
            # a token of size s counts s times
            counts = [size * math.exp(score) for size, score in zip(sizes, scores, strict=True)]
            outputs[i].append(sum(c / sum(counts) * value for c, value in zip(counts, values, strict=True)))
            if i == 0:
                read = [one + c / sum(counts) / heads for one, c in zip(read, counts, strict=True)]
    return [block.attn.proj(torch.cat(parts)) for parts in outputs], read


def merged_in_loops(arch: Architecture, tokens, sizes, read, count: int):
    """Each odd place has one nearest even place; the nearest pairs become one token each, in that place."""
    prefix = len(arch.prefix_names)
    odd, even = range(prefix + 1, len(tokens), 2), range(prefix, len(tokens), 2)
    weights = read_weights(arch, read)
    seen = [x - x.mean() if arch.norm == "layer" else x for x in tokens]

    def apart(a: int, b: int) -> float:
        return (1 - float(torch.cosine_similarity(seen[a], seen[b], dim=0))) * weights[a] * weights[b]

    nearest = {a: min(even, key=lambda b: apart(a, b)) for a in odd}
    gone = sorted(odd, key=lambda a: apart(a, nearest[a]))[:count]
    sums = [size * x for size, x in zip(sizes, tokens, strict=True)]
    total = list(sizes)
    for a in gone:
        sums[nearest[a]] = sums[nearest[a]] + sums[a]
        total[nearest[a]] += total[a]
    left = [i for i in range(len(tokens)) if i not in gone]
    return [sums[i] / total[i] for i in left], [total[i] for i in left]


def test_logits_are_those_of_loops_over_images_and_tokens(shorter: ViT) -> None:
    images = random_images(shorter.arch, count=3)
    with torch.no_grad():
        wanted = torch.stack([logits_in_loops(shorter, image) for image in images])
        torch.testing.assert_close(shorter.double()(images.double()), wanted, atol=1e-9, rtol=1e-9)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_merging_runs_on_a_gpu(shorter: ViT) -> None:
    """As on the CPU, forwards and backwards; in bfloat16 it may choose other tokens, but must run."""
    images = random_images(shorter.arch)
    exact = shorter.double()(images.double())
    exact.square().sum().backward()
    moved = copy.deepcopy(shorter).cuda()
    moved.zero_grad()
    got = moved(images.double().cuda())
    got.square().sum().backward()
    torch.testing.assert_close(got.cpu(), exact, atol=1e-9, rtol=1e-9)
    for one, other in zip(moved.parameters(), shorter.parameters(), strict=True):
        if other.grad is not None:
            assert one.grad is not None
            torch.testing.assert_close(one.grad.cpu(), other.grad, atol=1e-8, rtol=1e-8)
    moved.float().zero_grad()
    with torch.autocast("cuda", torch.bfloat16):
        rough = moved(images.cuda())
    rough.float().square().sum().backward()
    assert (
        all(p.grad is None or p.grad.isfinite().all() for p in moved.parameters()) and rough.isfinite().all()
    )


@pytest.mark.parametrize("fused", [True, False])
def test_unread_tokens_left_out_change_no_logit(shorter: ViT, fused: bool) -> None:
    arch = shorter.arch
    if arch.pool != "token":
        pytest.skip("average pooling reads every patch")
    blocks = (*arch.blocks[:-1], replace(arch.blocks[-1], merge=0))  # which merges nothing that is read
    less = ViT(replace(arch, blocks=blocks, skip_unread=True))
    less.load_state_dict(shorter.state_dict())
    images = random_images(arch)
    for block in less.blocks:
        if block.attn is not None:
            block.attn.fused = fused
    with torch.no_grad():
        torch.testing.assert_close(less(images), shorter(images), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["merging", "merging, distilled", "merging, average pool"])
def test_equal_tokens_merge_without_a_trace(name: str) -> None:
    """Attention counts a token as often as it has patches: where equal ones merge, nothing changes."""
    two = replace(SHORTER[name], image_size=(32, 32))  # 4 x 4 patches
    one = replace(two, blocks=(replace(two.blocks[0], merge=8), replace(two.blocks[1], merge=0)))
    constant = torch.randn(2, 3, 1, 1).expand(-1, -1, 32, 32)
    pairs = torch.randn(2, 3, 4, 2).repeat_interleave(16, dim=3).repeat_interleave(8, dim=2)
    for arch, images in ((two, constant), (one, pairs)):
        model = random_vit(arch)
        prefix = len(arch.prefix_names)
        with torch.no_grad():
            model.pos_embed[:, prefix:] = model.pos_embed[:, prefix : prefix + 1]
        plain = ViT(replace(arch, blocks=tuple(replace(block, merge=0) for block in arch.blocks)))
        plain.load_state_dict(model.state_dict())
        with torch.no_grad():
            assert plain(images).std() > 0.01
            torch.testing.assert_close(model(images), plain(images), atol=1e-5, rtol=1e-4)


def test_merging_keeps_what_there_is() -> None:
    """The sizes still count all patches, and the weighted sum of all tokens is as it was."""
    x, read = torch.randn(5, 9, 24), torch.rand(5, 9)
    sizes = torch.randint(1, 5, (5, 9)).float()
    merged, left = Merge(replace(TINY, registers=1), 3)(x, sizes, read)
    assert merged.shape == (5, 6, 24) and left.shape == (5, 6)
    torch.testing.assert_close(left.sum(dim=1), sizes.sum(dim=1))
    torch.testing.assert_close((merged * left[..., None]).sum(dim=1), (x * sizes[..., None]).sum(dim=1))
    torch.testing.assert_close(merged[:, :2], x[:, :2])


def test_the_place_of_each_token_is_where_it_merges() -> None:
    x, read = torch.randn(5, 12, 24), torch.rand(5, 12)
    merge = Merge(replace(TINY, distilled=True), 4)
    places = merge.places(x, read)
    assert sorted(set(places[0].tolist())) == list(range(8)) and places[:, :2].tolist() == [[0, 1]] * 5
    for image, (merged, sizes) in enumerate(zip(*merge(x, None, read), strict=True)):
        for place in range(8):
            together = x[image, places[image] == place]
            assert len(together) == sizes[place]
            torch.testing.assert_close(together.mean(dim=0), merged[place])


def test_what_looks_alike_merges_alike_however_it_is_rounded() -> None:
    generator = torch.Generator().manual_seed(0)
    few = torch.randn(40, 3, 24, generator=generator)
    x = few[:, torch.randint(3, (25,), generator=generator)]  # many equal tokens
    read = torch.rand(40, 3, generator=generator)[:, torch.randint(3, (25,), generator=generator)]
    merge = Merge(replace(TINY, image_size=(32, 48)), 6)
    order, onto = merge.pairs(x, read)
    for _ in range(5):
        noise, other = (1 + 2e-6 * (torch.rand(one.shape, generator=generator) - 0.5) for one in (x, read))
        again, there = merge.pairs(x * noise, read * other)
        assert torch.equal(again[:, :-6], order[:, :-6])  # in which order tokens are added does not matter
        assert [
            dict(zip(*both, strict=True)) for both in zip(again[:, -6:].tolist(), there.tolist(), strict=True)
        ] == [
            dict(zip(*both, strict=True)) for both in zip(order[:, -6:].tolist(), onto.tolist(), strict=True)
        ]


def test_macs_and_parameters_are_those_of_the_model(shorter: ViT) -> None:
    arches = [shorter.arch]
    if shorter.arch.pool == "token" and not shorter.arch.blocks[-1].merge:
        arches.append(replace(shorter.arch, skip_unread=True))
    for arch in arches:
        model = ViT(arch)
        with FlopCounterMode(display=False) as counter, model.plain_attention(), torch.no_grad():
            model(random_images(arch, count=1))
        assert counter.get_total_flops() == 2 * cost(arch).macs
        assert cost(arch).params == sum(parameter.numel() for parameter in model.parameters())


def test_tokens_of_every_block() -> None:
    arch = SHORTER["merging"]
    assert arch.tokens == (7, 5, 4) and arch.computed_tokens == 4 and arch.merges
    seen = []
    model = ViT(arch)
    for block in model.blocks:
        block.register_forward_hook(lambda _, given, out: seen.append((given[0].shape[1], out[0].shape[1])))
    model(random_images(arch))
    assert seen == [(7, 5), (5, 4)]
    lean = replace(arch, blocks=(arch.blocks[0], replace(arch.blocks[1], merge=0)), skip_unread=True)
    assert lean.tokens == (7, 5, 1)


def test_an_absent_half_has_no_weights(shorter: ViT) -> None:
    for index, widths in enumerate(shorter.arch.blocks):
        names = {name.split(".")[2] for name in shorter.state_dict() if name.startswith(f"blocks.{index}.")}
        assert ("attn" in names) == ("norm1" in names) == bool(widths.heads)
        assert ("mlp" in names) == ("norm2" in names) == bool(widths.mlp)


def test_from_json_and_back(shorter: ViT) -> None:
    text = shorter.arch.to_json()
    assert Architecture.from_json(text) == shorter.arch
    earlier = json.loads(TINY.to_json()) | {"version": 1}
    for block in earlier["blocks"]:
        del block["merge"]
    assert Architecture.from_json(json.dumps(earlier)) == TINY


@pytest.mark.parametrize(
    ("widths", "reason"),
    [
        ((0, 8, 8, 32), "no attention"),
        ((0, 0, 0, 32, 2), "no attention"),
        ((3, 0, 8, 32), "at least 1"),
        ((3, 8, 8, 32, -1), "at least 0"),
        ((3, 8, 8, 32, 2.0), "whole number"),
        ((3, 8, 8, 32, 4), "at most half of its 6 patch tokens"),
    ],
)
def test_widths_that_are_no_block_are_refused(widths: tuple[int, ...], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        replace(TINY, blocks=(BlockWidths(*widths), BlockWidths(3, 8, 8, 32)))


def test_a_lean_last_block_merges_nothing() -> None:
    with pytest.raises(ValueError, match="merge 0 in the last block"):
        replace(SHORTER["merging"], skip_unread=True)
