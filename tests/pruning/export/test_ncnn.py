"""The format `ncnn`: what is written runs in ncnn and gives the model's logits, for every kind of model."""

from __future__ import annotations

import importlib.util
import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from analysis.models.load import load, read_bundle
from analysis.vit import Architecture
from pruning.bundle.write import write_bundle
from pruning.cli.main import main
from pruning.export import ExportError, check_logits, require_exportable
from pruning.export.ncnn import is_ncnn, ncnn_runner, write_ncnn
from pruning.library import save
from tests.support.bundles import PREPROCESS
from tests.support.models import FAMILIES, PLACED, SHORT, SHORTER, TINY, VARIANTS, random_images, random_vit

KINDS = {
    **VARIANTS,
    **FAMILIES,
    **SHORTER,
    "lean": replace(TINY, skip_unread=True),
    "short": SHORT,
}
needs_ncnn = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("ncnn", "pnnx")),
    reason="ncnn and pnnx are for phones and boards, so they are not required",
)


@pytest.mark.slow
@needs_ncnn
@pytest.mark.parametrize("arch", KINDS.values(), ids=KINDS)
def test_logits(arch: Architecture, tmp_path: Path) -> None:
    model, images = random_vit(arch), random_images(arch, 4)
    write_ncnn(model, PREPROCESS, tmp_path / "model.ncnn.param")
    with torch.inference_mode():
        torch.testing.assert_close(
            ncnn_runner(tmp_path / "model.ncnn.param", 1)(images), model(images), atol=1e-4, rtol=1e-3
        )
    assert {file.name for file in tmp_path.iterdir()} == {
        f"model.ncnn.{end}" for end in ("param", "bin", "json")
    }
    about = json.loads((tmp_path / "model.ncnn.json").read_text())
    assert about["labels"] == list(PREPROCESS.labels) and about["preprocess"] == json.loads(
        PREPROCESS.to_json()
    )


@needs_ncnn
@pytest.mark.parametrize("half", [True, False])
def test_the_demo_from_the_command_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, half: bool
) -> None:
    """Its weights are stored in half precision, which loses nothing; others are not."""
    model = load("demo").model
    source = "demo"
    if not half:
        source = str(tmp_path / "other")
        write_bundle(Path(source), random_vit(model.arch), load("demo").preprocess, name="other", report={})
        model = read_bundle(Path(source)).model
    words = ["export", "--model", source, "--format", "ncnn", "--out", str(tmp_path / "out"), "--json"]
    assert main(words) == 0
    file = Path(json.loads(capsys.readouterr().out)["ncnn"])
    check_logits("ncnn", ncnn_runner(file, 1), model)
    size = file.with_suffix(".bin").stat().st_size / sum(one.numel() for one in model.parameters())
    assert (2 <= size < 2.2) if half else (4 <= size < 4.2)
    require_exportable(tmp_path / "out", ["ncnn"])  # our own files are replaced
    assert main(words) == 0


@needs_ncnn
def test_what_pnnx_cannot_do_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(words: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(words, 1, "", "layer x\nno such operator\n")

    def hangs(words: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        raise subprocess.TimeoutExpired(words, 900)

    target = tmp_path / "model.ncnn.param"
    monkeypatch.setattr(subprocess, "run", fails)
    with pytest.raises(ExportError, match="pnnx could not convert the model: no such operator"):
        write_ncnn(random_vit(TINY), PREPROCESS, target)
    monkeypatch.setattr(subprocess, "run", hangs)
    with pytest.raises(ExportError, match="pnnx was stopped after 900 s"):
        write_ncnn(random_vit(TINY), PREPROCESS, target)


@pytest.mark.parametrize("missing", ["ncnn", "pnnx"])
def test_missing_packages_are_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == missing else object())
    assert main(["export", "--model", "demo", "--format", "ncnn", "--out", str(tmp_path / "out")]) == 2
    needed = f"the format ncnn needs the package {missing}, which is not installed: pip install ncnn pnnx"
    assert needed in capsys.readouterr().err
    with pytest.raises(ValueError, match=needed):
        save("demo", tmp_path / "out", "ncnn")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("arch", PLACED.values(), ids=PLACED)
def test_places_of_merged_tokens_are_refused(arch: Architecture, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="export it as onnx, or prune it without tokens"):
        write_ncnn(random_vit(arch), PREPROCESS, tmp_path / "model.ncnn.param")


@pytest.mark.parametrize("name", ["model.ncnn.param", "model.ncnn.bin", "model.ncnn.json"])
def test_files_of_others_are_not_overwritten(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(ValueError, match=f"{name} exists and is no export"):
        require_exportable(tmp_path, ["ncnn"])
    assert not is_ncnn(tmp_path / name)
