from __future__ import annotations

import pytest
import torch

from analysis.outputs import CLASSIFY
from analysis.vit import ViT
from pruning.quantize import choose as module
from pruning.quantize.choose import ALPHAS, Trial, choose, divergence, mean_divergence
from tests.support.models import TINY, random_images, random_vit


@pytest.fixture
def fit() -> list[torch.Tensor]:
    return list(random_images(TINY, 12, seed=7).split(4))


@pytest.fixture
def aside() -> list[torch.Tensor]:
    return list(random_images(TINY, 8, seed=8).split(4))


def with_outlier(model: ViT, block: int) -> ViT:
    """A neuron of enormous output that nothing reads, so that the other inputs of fc2 lose their digits."""
    mlp = model.blocks[block].mlp
    with torch.no_grad():
        mlp.fc1.weight[0], mlp.fc1.bias[0] = 0, 300.0
        mlp.fc2.weight[:, 0] = 0
    return model


def test_the_divergence_from_its_formula() -> None:
    first, second = (torch.randn(5, 4, generator=torch.Generator().manual_seed(i)) for i in (0, 1))
    p, q = first.double().softmax(-1).tolist(), second.double().softmax(-1).tolist()
    wanted = 0.0
    for a, b in zip(p, q, strict=True):
        wanted += sum(x * (torch.tensor(x / y).log().item()) for x, y in zip(a, b, strict=True)) / 5
    assert mean_divergence(CLASSIFY, first, second) == pytest.approx(wanted, rel=1e-5)
    with pytest.raises(ValueError, match="no images to measure the divergence on"):
        divergence(random_vit(TINY), [], [])


def test_the_smoothing_of_least_divergence_is_taken(tiny: ViT, fit, aside) -> None:
    with torch.no_grad():
        tiny.get_parameter("blocks.0.norm1.weight")[2] *= (
            60  # one channel far above the others, as in real models
        )
        tiny.blocks[0].attn.qkv.weight[:, 2] /= 60
    choice = choose(tiny, fit, aside)
    smoothings = [trial for trial in choice.tried if not trial.floating]
    assert [trial.alpha for trial in smoothings] == list(ALPHAS)
    assert choice.best.alpha == min(smoothings, key=lambda trial: trial.kl).alpha is not None
    with torch.inference_mode():
        assert torch.equal(choice.model(aside[0]), tiny(aside[0]))


def test_the_layer_that_costs_accuracy_stays_in_float(tiny: ViT, fit, aside) -> None:
    choice = choose(with_outlier(tiny, 1), fit, aside)
    assert choice.best.floating[0] == "blocks.1.mlp.fc2"
    assert "blocks.1.mlp.fc2" not in choice.quantised and "blocks.0.mlp.fc2" in choice.quantised
    whole = min(trial.kl for trial in choice.tried if not trial.floating)
    assert choice.best.kl < whole / 2
    assert Trial(choice.best.alpha, ("blocks.1.mlp.fc2",), choice.tried[-1].kl).kl <= whole


def test_no_search_where_the_divergence_is_small(tiny: ViT, fit, aside, monkeypatch) -> None:
    monkeypatch.setattr(module, "ENOUGH", 100.0)
    choice = choose(with_outlier(tiny, 1), fit, aside)
    assert len(choice.tried) == len(ALPHAS) and choice.best.floating == ()
