"""The project as a library: models in memory, any data loader, against the parts that the commands use."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import UserDict
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import pruning
from analysis.measure.cost import cost
from analysis.models.load import read_bundle
from analysis.vit import ViT
from pruning import evaluate, load, prune, save
from pruning.bundle.report import find_report
from pruning.criteria.registry import CRITERIA
from pruning.cut.ratios import Ratios, shrink
from pruning.cut.selection import select
from pruning.cut.shorter import with_merges
from pruning.cut.surgery import cut
from tests.support.models import ROOT, TINY, random_images, random_vit


@pytest.fixture
def data() -> DataLoader[Any]:
    return DataLoader(TensorDataset(random_images(TINY, 40), torch.arange(40) % 10), batch_size=16)


def test_a_cut_by_scores_is_that_of_its_parts(data: DataLoader[Any], tiny: ViT) -> None:
    """The twin: scores of the first images, selection and cut, put together by hand; and the model stays."""
    before = {name: value.clone() for name, value in tiny.state_dict().items()}
    small = prune(tiny, data, "taylor", ratios={"mlp": 0.5, "qk": 0.25}, images=20)
    images, labels = random_images(TINY, 40)[:20], torch.arange(20) % 10
    scores = CRITERIA["taylor"].score(tiny, [(images, labels)], CRITERIA["taylor"].options())
    expected = cut(tiny, select(scores, TINY, shrink(TINY, Ratios(mlp=0.5, qk=0.25))))
    assert small.model.arch == expected.arch
    for name, value in expected.state_dict().items():
        assert torch.equal(small.model.state_dict()[name], value), name
    assert all(torch.equal(value, before[name]) for name, value in tiny.state_dict().items())


def test_tokens_merge_with_any_method(data: DataLoader[Any], tiny: ViT) -> None:
    small = prune(tiny, data, "l2", ratios={"mlp": 0.5}, tokens=2).model
    assert [(block.mlp, block.merge) for block in small.arch.blocks] == [(16, 2), (16, 0)]
    alone = prune(tiny, data, "tokens", tokens=(1, 0)).model
    assert alone.arch == with_merges(TINY, (1, 0))


def test_a_budget_is_kept_and_the_bundle_tells_of_it(
    data: DataLoader[Any], tiny: ViT, tmp_path: Path
) -> None:
    wanted = 0.7 * cost(TINY).gmacs
    small = prune(tiny, data, gmacs=wanted, options={"images": 20})
    assert cost(small.model.arch).gmacs <= wanted * 1.02
    folder = save(small, tmp_path / "small", labels=[f"shape {n}" for n in range(10)])
    found, report = read_bundle(folder), find_report(folder)
    assert found.preprocess.labels[3] == "shape 3" and report is not None
    assert report.method == "spectral" and report.params_before == cost(TINY).params
    assert "pruned by PruneScope from `ViT` with the method `spectral`" in (folder / "README.md").read_text()
    assert save(small, tmp_path / "hf", "transformers") == tmp_path / "hf"
    assert json.loads((tmp_path / "hf" / "config.json").read_text())["model_type"] == "prunescope"
    again = load(folder)
    torch.testing.assert_close(again.model(random_images(TINY)), small.model(random_images(TINY)))


@pytest.mark.parametrize("form", ["tuple", "list", "dict", "batch of transformers"])
def test_batches_of_any_form(form: str, tiny: ViT) -> None:
    images, labels = random_images(TINY, 12), torch.arange(12) % 10
    names = ("pixel_values", "labels") if form != "dict" else ("image", "label")
    forms: dict[str, Any] = {
        "tuple": (images, labels, "more"),
        "list": [images, labels],
        "dict": dict(zip(names, (images, labels), strict=True)),
        "batch of transformers": UserDict(zip(names, (images, labels), strict=True)),
    }
    found = evaluate(tiny, [forms[form]])
    expected = tiny(images).argmax(dim=-1)
    assert found.predictions == tuple(expected.tolist()) and found.labels == tuple(labels.tolist())
    assert found.top1 == int((expected == labels).sum()) / 12


def test_modules_of_timm_and_names(data: DataLoader[Any]) -> None:
    import timm

    module = timm.create_model("deit_tiny_patch16_224", img_size=32, depth=1, num_classes=3).eval()
    loaded = load(module)
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(loaded.model(images), module(images), atol=1e-4, rtol=1e-4)
    assert (
        loaded.preprocess.mean == pytest.approx((0.485, 0.456, 0.406))
        and loaded.name == "deit_tiny_patch16_224"
    )
    small = prune(module, [(images, torch.tensor([0, 2]))], "l2", ratios={"heads": 0.34})
    assert small.model.arch.blocks[0].heads == 2 and small.model(images).shape == (2, 3)
    assert load("demo").name == "demo"
    assert load("demo", labels=tuple("abcdefghij")).preprocess.labels == tuple("abcdefghij")


@pytest.mark.skipif(find_spec("transformers") is None, reason="transformers is not installed")
def test_modules_of_transformers() -> None:
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        hidden_size=24,
        num_hidden_layers=1,
        num_attention_heads=3,
        intermediate_size=32,
        image_size=16,
        patch_size=8,
        id2label={0: "cat", 1: "dog"},
    )
    module = ViTForImageClassification(config).eval()
    loaded = load(module)
    images = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(loaded.model(images), module(images).logits, atol=1e-5, rtol=1e-5)
    assert loaded.preprocess.labels == ("cat", "dog") and loaded.name == "ViTForImageClassification"
    assert "/tmp" not in loaded.source and not any("/tmp" in note for note in loaded.notes)


def test_what_cannot_be_is_one_sentence(data: DataLoader[Any], tiny: ViT, tmp_path: Path) -> None:
    for batch in (torch.zeros(2, 3, 16, 24), {"pixel_values": torch.zeros(2, 3, 16, 24)}, ("a", "b"), [1]):
        with pytest.raises(ValueError, match="must give batches of images B C Y X with their labels"):
            evaluate(tiny, [batch])
    images, labels = random_images(TINY, 4), torch.arange(4)
    for odd, said in {
        (images.to(torch.uint8), labels): r"floats of 3 x 16 x 24, got torch\.uint8",
        (images[..., :16], labels): "floats of 3 x 16 x 24, got .* of 3 x 16 x 16",
        (images, labels / 4): "labels must be whole numbers, one for each of the 4 images",
        (images, torch.eye(4)): "labels must be whole numbers, .* of shape 4 x 4",
        (images, labels + 7): "labels must be from 0 to 9, got 7 to 10",
        (images, labels - 1): "labels must be from 0 to 9, got -1 to 2",
    }.items():
        for attempt in (evaluate, lambda model, data: prune(model, data, "l2", ratios={"mlp": 0.5})):
            with pytest.raises(ValueError, match=said):
                attempt(tiny, [odd])
    with pytest.raises(ValueError, match="the data gave no images"):
        prune(tiny, [], "l2", ratios={"mlp": 0.5})
    with pytest.raises(ValueError, match="nothing to remove"):
        prune(tiny, data)
    with pytest.raises(ValueError, match="gohsp trains, which takes a run"):
        prune(tiny, data, "gohsp", ratios={"heads": 0.5})
    with pytest.raises(ValueError, match="are for models without a classifier"):
        evaluate(tiny, data, gallery=data)
    with pytest.raises(ValueError, match="belong to models by name"):
        load(tiny, num_classes=0)
    with pytest.raises(ValueError, match=r"not supported: .* another|not supported: "):
        load(torch.nn.Linear(2, 2))
    with pytest.raises(AttributeError, match="module 'pruning' has no attribute 'fly'"):
        _ = pruning.fly


def test_importing_the_package_loads_nothing() -> None:
    """The command line sets the process up before torch is loaded, and `pruning` is imported first."""
    code = "import sys, pruning; assert 'torch' not in sys.modules; from pruning import runs; pruning.prune"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_backbone_is_pruned_for_its_features(data: DataLoader[Any]) -> None:
    dense = load(random_vit(replace(TINY, num_classes=0)))
    small = prune(dense, data, "l2", ratios={"mlp": 0.5})
    found = evaluate(small, data, gallery=data, against=dense)
    assert found.measure == "knn" and found.fidelity is not None and found.fidelity.tokens is not None
    assert found.fidelity.pooled.mean < 1 == pytest.approx(evaluate(dense, data, against=dense).fidelity.cka)


@pytest.mark.parametrize("form", [lambda x: x, lambda x: (x,), lambda x: {"pixel_values": x}])
def test_a_backbone_needs_no_labels(form: Callable[[torch.Tensor], Any]) -> None:
    dense, batches = load(random_vit(replace(TINY, num_classes=0))), random_images(TINY, 24).split(8)
    images = [form(batch) for batch in batches]
    small = prune(dense, images, "l2", ratios={"mlp": 0.5})
    found = evaluate(small, images, against=dense)
    assert found.measure == "neighbours" and found.fidelity is not None and found.images == 24
    assert evaluate(dense, images, against=dense).top1 == 1
