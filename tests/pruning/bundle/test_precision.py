"""Bundles in half precision: what is evaluated is what is written, and a model keeps the precision it has."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from analysis.models.load import LoadedModel, load
from analysis.models.preprocess import Preprocess
from pruning.bundle import precision
from pruning.bundle.write import write_bundle
from pruning.cli.main import main
from pruning.cut.ratios import Ratios
from pruning.jobs import registry
from pruning.jobs.prune_job import Job
from pruning.jobs.run_prune import prune
from tests.support.models import TINY, random_images, random_vit
from tests.support.training import Recorder

SPECTRAL = Job("demo", "demo", "spectral", ratios=Ratios(mlp=0.3), limit=10)  # changes the weights it keeps


def stored(folder: Path) -> set[torch.dtype]:
    return {value.dtype for value in load_file(folder / "model.safetensors").values()}


@pytest.mark.parametrize(("dtype", "half"), [(None, True), ("float16", True), ("float32", False)])
def test_what_is_evaluated_is_what_is_written(tmp_path: Path, dtype: str | None, half: bool) -> None:
    """The demo is stored in half precision, and so is what is made of it unless told otherwise."""
    made = prune(replace(SPECTRAL, method="l1"), dtype=dtype)
    registry.save(made, tmp_path / "b")
    assert stored(tmp_path / "b") == {torch.float16 if half else torch.float32}
    found = load(str(tmp_path / "b"))
    assert found.half == half
    weights = made.pruned.model.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in found.model.state_dict().items())


def loaded(half: bool = False) -> LoadedModel:
    return LoadedModel(random_vit(TINY), Preprocess(TINY.image_size), "tiny", "test", half)


def test_rounding_makes_a_copy_and_keeps_the_precision_that_a_model_came_in() -> None:
    whole, monitor = loaded(), Recorder()
    before = {name: value.clone() for name, value in whole.model.state_dict().items()}
    assert precision.rounded(whole, None, monitor).model is whole.model
    for made in (
        precision.rounded(whole, "float16", monitor),
        precision.rounded(replace(whole, half=True), None, monitor),
    ):
        assert made.half and made.model is not whole.model
        for name, value in made.model.state_dict().items():
            assert torch.equal(value, before[name].half().float()), name
    assert not precision.rounded(replace(whole, half=True), "float32", monitor).half
    assert all(torch.equal(value, before[name]) for name, value in whole.model.state_dict().items())


def test_weights_beyond_half_precision_stay_in_float32_which_is_said(tmp_path: Path) -> None:
    model, monitor = loaded(half=True), Recorder()
    with torch.no_grad():
        model.model.get_parameter("head.bias")[0] = 1e5
    made = precision.rounded(model, None, monitor)
    assert not made.half and made.model is model.model
    assert any("head.bias has values beyond the range of float16" in line for line in monitor.notes)


def test_the_commands_write_what_dtype_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """prune, recover and export; then each command that reads a bundle reads the half ones."""

    def run(*words: str) -> dict:
        assert main([*words, "--json"]) == 0
        found: dict = json.loads(capsys.readouterr().out)
        return found

    pruned, kept, out = (str(tmp_path / name) for name in ("pruned", "kept", "out"))
    words = ["prune", "--model", "demo", "--data", "demo", "--method", "l1", "--mlp", "0.5", "--limit", "20"]
    told = run(*words, "--dtype", "float32", "--out", pruned)
    assert stored(Path(pruned)) == {torch.float32}
    assert run(*words, "--out", kept)["top1_after"] == told["top1_after"]
    assert stored(Path(kept)) == {torch.float16}
    assert run("evaluate", "--model", kept, "--data", "demo", "--limit", "20")["top1"] == told["top1_after"]
    run("export", "--model", kept, "--out", out)
    assert stored(Path(out)) == {torch.float16}
    run("export", "--model", kept, "--dtype", "float32", "--out", out + "32")
    assert stored(Path(out + "32")) == {torch.float32}
    run("bench", "--model", kept, "--against", pruned, "--rounds", "2", "--batch", "1")
    run("report", kept, "--out", str(tmp_path / "report.html"))
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Weights, float16" in page and "Stored in" in page
    for folder, row, size in ((kept, "Weights in float16", 2e-6), (pruned, "Weights in float32", 4e-6)):
        sizes = [size * told[f"params_{when}"] for when in ("before", "after")]
        written = " | ".join(f"{one:.2f} MB" if one >= 10 else f"{one:.4g} MB" for one in sizes)
        assert f"| {row} | {written} |" in (Path(folder) / "README.md").read_text(encoding="utf-8")


def test_dtype_is_refused_where_it_says_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["prune", "--model", "demo", "--data", "demo", "--mlp", "0.5", "--dtype", "float16", "--detach"]
    assert main(words) == 2
    assert "--dtype needs --out" in capsys.readouterr().err
    out = str(tmp_path / "x")
    assert main(["export", "--model", "demo", "--format", "onnx", "--dtype", "float16", "--out", out]) == 2
    assert "--dtype needs the format bundle" in capsys.readouterr().err


def test_a_half_bundle_gives_the_logits_of_its_rounded_weights(tmp_path: Path) -> None:
    model = random_vit(TINY)
    write_bundle(tmp_path / "b", model, Preprocess(TINY.image_size), name="tiny", report={}, half=True)
    images = random_images(TINY, 3)
    expected = precision.rounded(loaded(), "float16", Recorder()).model(images)
    torch.testing.assert_close(load(str(tmp_path / "b")).model(images), expected)
