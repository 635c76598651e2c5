"""What speaks of the model does not change when its heads are described in other coordinates.

Turning a head's value channels by an orthogonal matrix, and its columns of `proj` with them, changes
no logit; nor does turning its queries and keys alike. Every similarity and measure of heads must
stay the same, and so must every criterion's ranking of whole heads, but for those named here.
"""

from __future__ import annotations

import pytest
import torch

from analysis.heads.graph import SIMILARITIES, similarities
from analysis.vit import ViT
from pruning.criteria.head_measures import HEAD_MEASURES, ask_heads, read_heads
from pruning.criteria.registry import CRITERIA
from tests.support.models import batches, random_images, turned

# These compare single channels or weights, and say so: SNP's pair scores and row similarities, absolute
# weights, rows and their distances. A random order speaks of nothing.
OF_CHANNELS = {"snp", "snp-reversed", "l1", "l2", "gm", "random"}


@pytest.fixture
def pair(variant: ViT) -> tuple[ViT, ViT]:
    return variant, turned(variant, seed=5)


def data(model: ViT):
    return batches(random_images(model.arch, 4), 2)


def test_a_turn_changes_weights_and_no_logit(pair: tuple[ViT, ViT]) -> None:
    one, other = pair
    images = random_images(one.arch, 4)
    with torch.no_grad():
        torch.testing.assert_close(one(images), other(images), atol=1e-5, rtol=1e-5)
    for a, b in zip(one.blocks, other.blocks, strict=True):
        assert (a.attn.proj.weight - b.attn.proj.weight).abs().max() > 1e-2


@pytest.mark.parametrize("kind", SIMILARITIES)
def test_similarities_of_heads(kind: str, pair: tuple[ViT, ViT]) -> None:
    found = [similarities(model, data(model), kind) for model in pair]
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_measures_of_heads(pair: tuple[ViT, ViT]) -> None:
    one, other = (read_heads(model, data(model)) for model in pair)
    for kind, weights in one.alike.items():  # across blocks, too
        torch.testing.assert_close(weights, other.alike[kind], atol=1e-5, rtol=1e-4)
    for name, values in one.values.items():
        if name not in OF_CHANNELS:
            assert other.values[name] == pytest.approx(values, rel=1e-4, abs=1e-5), name
    assert set(one.values) - OF_CHANNELS == {"gohsp", "confidence", "entropy", "distance", "prefix"}


@pytest.mark.parametrize("name", [name for name, entry in HEAD_MEASURES.items() if entry.needs_labels])
def test_measures_of_the_loss(name: str, pair: tuple[ViT, ViT]) -> None:
    one, other = (ask_heads(model, name, data(model)) for model in pair)
    assert other == pytest.approx(one, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("name", [name for name in CRITERIA if name not in OF_CHANNELS])
def test_criteria_rank_heads_alike(name: str, pair: tuple[ViT, ViT]) -> None:
    entry = CRITERIA[name]
    one, other = (entry.score(model, data(model), entry.options()).heads for model in pair)
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a.double(), b.double(), atol=1e-5, rtol=1e-3)


def test_the_exceptions_do_depend_on_coordinates(pair: tuple[ViT, ViT]) -> None:
    """Else they should be held to the rule as well."""
    for name in sorted(OF_CHANNELS - {"random"}):
        entry = CRITERIA[name]
        one, other = (entry.score(model, data(model), entry.options()).v for model in pair)
        assert max(float((a - b).abs().max() / a.abs().max()) for a, b in zip(one, other, strict=True)) > 1e-3
