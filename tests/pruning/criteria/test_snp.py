from __future__ import annotations

import time
from dataclasses import fields

import pytest
import torch

from analysis.attention.capture import capture
from analysis.threads import threads
from analysis.vit import Architecture, BlockWidths, ViT
from pruning.criteria.snp import SnpOptions, dissimilarity, pair_scores, snp, snp_pairs, snp_reversed
from pruning.cut.selection import Scores
from tests.support import reference
from tests.support.models import TINY, VARIANTS, batches, random_images, random_vit


@pytest.mark.parametrize(("tokens", "width", "gamma"), [(7, 4, 1), (7, 4, 4), (20, 8, 2), (5, 8, 3)])
def test_pair_scores_equal_the_n_by_n_twin(tokens: int, width: int, gamma: int) -> None:
    generator = torch.Generator().manual_seed(tokens * width)
    q, k = (torch.randn(2, 3, tokens, width, generator=generator, dtype=torch.float64) for _ in range(2))
    got = pair_scores(q, k, gamma)
    for image in range(2):
        for head in range(3):
            expected = reference.pair_scores(q[image, head], k[image, head], gamma)
            torch.testing.assert_close(got[image, head], expected)


def test_a_dead_pair_scores_zero() -> None:
    q, k = torch.randn(1, 1, 6, 3), torch.randn(1, 1, 6, 3)
    q[..., 1] = 0
    scores = pair_scores(q, k, 3)[0, 0]
    assert scores[1] == 0 and scores[0] > 0 and scores[2] > 0


def test_snp_is_the_mean_over_images_however_they_are_batched(tiny: ViT) -> None:
    images = random_images(TINY, count=5)
    got = snp_pairs(tiny, iter(batches(images, 2)))
    expected = torch.zeros(2, 3, 8)
    with capture(tiny) as record:
        for block in record(images):
            for image in range(5):
                for head in range(3):
                    twin = reference.pair_scores(block.q[image, head], block.k[image, head], 2)
                    expected[block.index, head] += twin / 5
    torch.testing.assert_close(torch.stack(got), expected, atol=1e-4, rtol=1e-4)


def test_dissimilarity_equals_the_twin() -> None:
    weight = torch.randn(12, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(dissimilarity(weight), reference.dissimilarity(weight))


def test_snp_value_mlp_and_residual_scores_by_loops() -> None:
    arch = VARIANTS["layer scale, no prefix in pos_embed"]
    model = random_vit(arch)
    scores = snp(model, batches(random_images(arch)), SnpOptions())
    state = {name: value.double() for name, value in model.state_dict().items()}
    writers = [state["patch_embed.proj.weight"].flatten(1)]
    for index in range(2):
        prefix = f"blocks.{index}"
        values = reference.dissimilarity(state[f"{prefix}.attn.qkv.weight"][48:])
        torch.testing.assert_close(scores.v[index].double().flatten(), values, atol=1e-4, rtol=1e-5)
        mlp = reference.dissimilarity(state[f"{prefix}.mlp.fc1.weight"])
        torch.testing.assert_close(scores.mlp[index].double(), mlp, atol=1e-4, rtol=1e-5)
        for layer, gamma in (("attn.proj", "ls1"), ("mlp.fc2", "ls2")):
            writers.append(state[f"{prefix}.{layer}.weight"] * state[f"{prefix}.{gamma}.gamma"][:, None])
    shares = [(score := reference.dissimilarity(weight)) / score.sum() for weight in writers]
    expected = sum(shares) / len(shares)
    torch.testing.assert_close(scores.embed.double(), expected, atol=1e-6, rtol=1e-5)


def test_reversed_keeps_what_snp_drops(tiny: ViT) -> None:
    given = batches(random_images(TINY))
    forth, back = snp(tiny, given, SnpOptions()), snp_reversed(tiny, given, SnpOptions())
    for field in fields(Scores):
        one, other = getattr(forth, field.name), getattr(back, field.name)
        for a, b in zip(one, other, strict=True) if isinstance(one, tuple) else [(one, other)]:
            ranks = [sorted(range(part.numel()), key=part.flatten().tolist().__getitem__) for part in (a, b)]
            values = [part.flatten().tolist() for part in (a, b)]
            assert [values[0][i] for i in ranks[0]] == [values[0][i] for i in reversed(ranks[1])]


def test_snp_without_images_is_an_error(tiny: ViT) -> None:
    with pytest.raises(ValueError, match="SNP needs calibration images, got none"):
        snp(tiny, [], SnpOptions())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"gamma": -1}, "gamma must be a whole number from 0 to 1024, got -1"),
        ({"images": 0}, "images must be a whole number from 1 to 4096"),
    ],
)
def test_options_keep_their_range(values: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SnpOptions(**values)


def test_scoring_costs_at_most_three_forward_passes() -> None:
    """Blocks of DeiT-Tiny's shape; processor time, because other work may share the machine."""
    widths = BlockWidths(3, 64, 64, 768)
    arch = Architecture((224, 224), (16, 16), 192, (widths,) * 3, 1000, 0.125)
    torch.manual_seed(0)
    model = ViT(arch).eval()
    model.init_weights()
    images = random_images(arch, count=16)
    ratios = []
    with threads(1):  # others on the machine then cost nothing but wall-clock time
        for _ in range(2):
            began = time.process_time()
            with torch.no_grad():
                model(images)
            forward = time.process_time() - began
            began = time.process_time()
            snp(model, batches(images), SnpOptions())
            ratios.append((time.process_time() - began) / forward)
    assert min(ratios) <= 3, ratios
