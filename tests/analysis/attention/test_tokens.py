"""Which patches have become one token, and what is read of tokens as maps over patches."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from analysis.attention.capture import capture
from analysis.attention.maps import attention_maps, rollout_of, row_readings, token_maps
from analysis.attention.objects import mass_on_object, object_attention, patch_cover, points_at_object
from analysis.attention.preservation import preservation
from analysis.attention.relevance import gradients, readout
from analysis.attention.rollout_objects import rollout_on_object
from analysis.attention.tokens import (
    Members,
    averaging,
    of_its_token,
    over_patches,
    shared_out,
)
from analysis.attention.trace import held_bytes, mean_of_patches, one_token, trace
from analysis.heads import statistics
from analysis.vit import ViT
from pruning.cut.shorter import with_architecture, with_merges
from tests.support.merging import EveryPatch, every_patch, mean_matrix
from tests.support.models import SHORTER, TINY, random_images, random_masks, random_vit


@pytest.fixture(params=SHORTER.values(), ids=list(SHORTER))
def shorter(request: pytest.FixtureRequest) -> ViT:
    return random_vit(request.param)


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-3)


def twins(model: ViT, count: int = 3) -> list[EveryPatch]:
    with torch.no_grad():
        return [every_patch(model, image) for image in random_images(model.arch, count)]


def stacked(maps: list[torch.Tensor], count: int) -> torch.Tensor:
    return torch.stack(maps) if maps else torch.zeros(0, count, count)


def rollout_twin(twin: EveryPatch, fuse: str, blocks: int) -> torch.Tensor:
    """Block by block: fused attention and the tokens themselves, rows to one; then what has merged."""
    total = torch.eye(len(mean_matrix(twin.groups[0])))
    for maps, before in zip(twin.maps[:blocks], twin.groups, strict=False):
        step = mean_matrix(before)
        if maps:
            heads = torch.stack(maps)
            step = step + {"mean": heads.mean(0), "max": heads.amax(0), "min": heads.amin(0)}[fuse]
        total = step / step.sum(dim=1, keepdim=True) @ total
    return mean_matrix(twin.groups[blocks]) @ total


# ---- members


def test_members_are_those_of_loops_and_partition_the_patches(shorter: ViT) -> None:
    arch, prefix = shorter.arch, len(shorter.arch.prefix_names)
    with capture(shorter) as record:
        blocks = list(record(random_images(arch, 3)))
    for place, twin in enumerate(twins(shorter)):
        for block, count in zip(blocks, arch.tokens[1:], strict=True):
            found = block.left
            if found is None:
                assert count == arch.num_tokens
                continue
            matrix = found.matrix()[place]  # N0 N
            assert matrix.shape == (arch.num_tokens, count)
            assert torch.equal(matrix.sum(dim=1), torch.ones(arch.num_tokens))  # each patch in one token
            assert torch.equal(matrix.sum(dim=0), found.sizes[place])
            assert torch.equal(matrix[:prefix, :prefix], torch.eye(prefix))
            assert found.sizes[place, :prefix].tolist() == [1] * prefix
            groups = [matrix[:, token].nonzero().flatten().tolist() for token in range(count)]
            assert groups == [sorted(group) for group in twin.groups[block.index + 1]]
    for block, following in pairwise(blocks):
        assert following.members is block.left
        assert following.sizes is None or torch.equal(following.sizes, following.members.sizes)


def test_tokens_are_the_means_of_their_members() -> None:
    """Where blocks add nothing, what is left are means of the embedded patches over each token's members."""
    model = random_vit(SHORTER["merging, average pool"])
    for block in model.blocks:
        for layer in (block.attn.proj, block.mlp.fc2):
            layer.weight.data.zero_()
            layer.bias.data.zero_()
    images = random_images(model.arch, 2)
    with capture(model) as record:
        *_, last = record(images)
    x, sizes = model.embed(images), None
    for block in model.blocks:
        x, sizes = block(x, sizes)
    share = last.left.matrix().mT / last.left.sizes[..., None]  # B N N0
    torch.testing.assert_close(x, share @ model.embed(images))


def test_values_of_tokens_become_values_of_patches() -> None:
    members = Members(torch.tensor([0, 2, 1, 2, 2]), torch.tensor([1.0, 1.0, 3.0]))
    values = torch.tensor([[5.0, 7.0, 9.0]])
    assert of_its_token(values, members).tolist() == [[5, 9, 7, 9, 9]]
    assert shared_out(values, members).tolist() == [[5, 3, 7, 3, 3]]
    assert shared_out(values, None) is values and of_its_token(values, None) is values
    maps = torch.rand(2, 3, 3)
    assert over_patches(maps, None) is maps
    batch = Members(members.token.expand(2, -1), members.sizes.expand(2, -1))
    expected = batch.matrix() @ maps @ (batch.matrix() / batch.sizes[:, None]).mT
    torch.testing.assert_close(over_patches(maps, batch), expected)
    torch.testing.assert_close(over_patches(maps[:, None], batch)[:, 0], expected)
    torch.testing.assert_close(over_patches(maps, members), expected)
    torch.testing.assert_close(averaging(members), over_patches(torch.eye(3), members))


# ---- maps


def test_attention_is_that_of_a_model_in_which_every_patch_goes_on(shorter: ViT) -> None:
    arch = shorter.arch
    images = random_images(arch, 3)
    with capture(shorter) as record:
        blocks = list(record(images))
    for place, twin in enumerate(twins(shorter)):
        seen = trace(shorter, images[place])
        torch.testing.assert_close(seen.logits, twin.logits, atol=1e-4, rtol=1e-4)
        for block, maps in zip(blocks, twin.maps, strict=True):
            expected = stacked(maps, arch.num_tokens)
            close(block.patch_attention[place], expected)
            close(seen.attention(block.index), expected)
            if block.members is not None:
                output = block.members.matrix()[place] @ block.head_output[place]
                close(block.patch_output[place], output)
            rows = block.patch_attention[place].sum(dim=-1)
            torch.testing.assert_close(rows, torch.ones_like(rows))


def test_a_trace_holds_no_more_than_it_says(shorter: ViT) -> None:
    found = trace(shorter, random_images(shorter.arch)[0])
    members = {id(each): each for each in found.members if each is not None}.values()
    parts = [part for each in members for part in (each.token, each.sizes)]
    parts += [*found.queries, *found.keys, found.logits]
    assert held_bytes(shorter.arch) == sum(part.untyped_storage().nbytes() for part in parts)


@pytest.mark.parametrize("name", ["merging, distilled", "without halves"])
def test_maps_are_rows_and_columns_of_it(name: str) -> None:
    model = random_vit(SHORTER[name])
    arch, prefix = model.arch, len(model.arch.prefix_names)
    image = random_images(arch)[0]
    with torch.no_grad():
        twin = every_patch(model, image)
    seen = trace(model, image)
    maps, grid = attention_maps(model, image), arch.grid
    for read in (one_token(arch, 0), one_token(arch, prefix + 3), mean_of_patches(arch)):
        found = token_maps(seen, read)
        for block in range(arch.depth):
            full = stacked(twin.maps[block], arch.num_tokens)
            looks = (read @ full)[..., prefix:].unflatten(-1, grid)
            close(found.looks[block], looks)
            close(found.seen[block], (full @ read)[..., prefix:].unflatten(-1, grid))
            close(found.on_prefix[block], (read @ full)[..., :prefix].sum(-1))
            assert maps.blocks[block].shape == (len(full), prefix + 1, *grid)


@pytest.mark.parametrize("fuse", ["mean", "max", "min"])
def test_rollout_follows_what_has_merged(shorter: ViT, fuse: str) -> None:
    arch, image = shorter.arch, random_images(shorter.arch)[0]
    with torch.no_grad():
        twin = every_patch(shorter, image)
    everywhere = torch.eye(arch.num_tokens)
    for blocks in range(1, arch.depth + 1):
        expected = rollout_twin(twin, fuse, blocks)
        torch.testing.assert_close(expected.sum(dim=1), torch.ones(len(expected)))
        found = rollout_of(trace(shorter, image), everywhere, fuse=fuse, blocks=blocks)
        patches = expected[:, len(arch.prefix_names) :]
        close(found.flatten(1), patches)


# ---- relevance


def steps_twin(model: ViT, image: torch.Tensor, label: int) -> tuple[EveryPatch, list[torch.Tensor]]:
    """dA ⊙ A of the model's own tokens, as maps over patches, H N0 N0 for each block.

    A token's row is felt by all its patches, each of which has a row of its own in the twin.
    """
    twin = every_patch(model, image)
    model.zero_grad()
    twin.logits[label].backward()
    steps = []
    for maps, before in zip(twin.maps, twin.groups, strict=False):
        sums = (mean_matrix(before) > 0).float()
        slopes = [attention.grad for attention in maps if attention.grad is not None]
        each = [a.detach() * (sums @ slope) for a, slope in zip(maps, slopes, strict=True)]
        steps.append(stacked(each, model.arch.num_tokens))
    return twin, steps


def test_relevance_follows_what_has_merged(shorter: ViT) -> None:
    arch = shorter.arch
    if not arch.num_classes:
        pytest.skip("no classes")
    image, everywhere = random_images(arch)[0], torch.eye(arch.num_tokens)
    twin, steps = steps_twin(shorter, image, 4)
    relevant = rolled = everywhere
    for step, before in zip(steps, twin.groups, strict=False):
        own = mean_matrix(before)
        heads = max(len(step), 1)
        relevant = (own + step.clamp_min(0).sum(0) / heads) @ relevant
        factor = own + (step.sum(0) / heads).clamp_min(0)
        rolled = factor / factor.sum(dim=1, keepdim=True) @ rolled
    last = mean_matrix(twin.groups[-1])
    found = gradients(shorter, image, 4)
    close(found.relevance(everywhere), last @ relevant - last)
    close(found.rollout(everywhere), last @ rolled)
    rows = found.rollout(everywhere, 0.5).sum(dim=1)
    torch.testing.assert_close(rows, torch.ones_like(rows))
    assert found.map(found.relevance(readout(arch)[None])).shape == (1, *arch.grid)


def test_a_model_without_any_attention_has_no_relevance() -> None:
    model = random_vit(replace(SHORTER["without halves"], blocks=(SHORTER["without halves"].blocks[0],) * 2))
    found, read = gradients(model, random_images(model.arch)[0], 1), readout(model.arch)[None]
    assert not found.relevance(read).any() and torch.equal(found.rollout(read), read)


# ---- many images


@pytest.mark.parametrize("name", ["merging, distilled", "merging, average pool", "without halves"])
def test_scores_on_objects_and_of_heads_are_those_of_maps_over_patches(name: str) -> None:
    model = random_vit(SHORTER[name])
    arch, prefix = model.arch, len(model.arch.prefix_names)
    images, masks, every = random_images(arch, 3), random_masks(3, arch.image_size), twins(model)
    cover, read = patch_cover(masks, arch), row_readings(arch)[-1]
    heads = object_attention(model, [(images, masks)], read)
    rollout = rollout_on_object(model, [(images, masks)], read, fuse="max")
    shown = [(read @ rollout_twin(twin, "max", arch.depth))[prefix:].view(arch.grid) for twin in every]
    assert rollout.mass == pytest.approx(float(mass_on_object(torch.stack(shown), cover).mean()), rel=1e-4)
    with capture(model) as record:
        for block in record(images):
            full = torch.stack([stacked(twin.maps[block.index], arch.num_tokens) for twin in every])
            maps = (read @ full)[..., prefix:].unflatten(-1, arch.grid)  # B H Y X
            mass = mass_on_object(maps, cover[:, None]).mean(0)
            close(heads.mass[block.index], mass)
            own = (read @ block.patch_attention)[..., prefix:].unflatten(-1, arch.grid)
            hits = points_at_object(own, cover[:, None]).float().mean(0)  # patches of a token tie
            torch.testing.assert_close(heads.pointing[block.index], hits)
            entropy = -(full * full.log2()).sum(-1).mean(-1).double()
            torch.testing.assert_close(statistics.entropy(block, arch), entropy, atol=1e-4, rtol=1e-4)
            found = statistics.confidence(block, arch)
            close(found, full.amax(-1).mean(-1))
            mass = full[..., :prefix].sum(-1).mean(-1)
            close(statistics.prefix_mass(block, arch), mass)
            assert statistics.attended_distance(block, arch).isfinite().all()


def test_preservation_compares_patch_by_patch() -> None:
    dense = random_vit(TINY)
    small = with_architecture(dense, with_merges(TINY, (3, 1)))
    images = random_images(TINY, 3)
    found = preservation(dense, small, [images], [(0, 1, 2), (0, 1, 2)])
    torch.testing.assert_close(found[0], torch.ones(3))  # nothing has merged before the first block
    pairs = list(zip(twins(dense), twins(small), strict=True))
    for head in range(3):
        both = [[twin.maps[1][head].flatten() for twin in pair] for pair in pairs]
        expected = sum(float(torch.cosine_similarity(pair[0], pair[1], dim=0)) for pair in both) / 3
        assert float(found[1][head]) == pytest.approx(expected, abs=1e-5)
    bare = random_vit(SHORTER["without halves"])
    same = preservation(bare, bare, [random_images(bare.arch)], [(), (0, 1, 2), (0, 1, 2), ()])
    assert [len(values) for values in same] == [0, 3, 3, 0]
    assert torch.cat(same).tolist() == pytest.approx([1] * 6)
