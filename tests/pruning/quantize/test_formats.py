"""The formats in int8 and of OpenVINO, by the command line."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from analysis.models.load import read_bundle
from analysis.models.preprocess import Preprocess
from pruning.bundle.layout import EXPORTS, FILES
from pruning.bundle.write import write_bundle, zip_bundle
from pruning.cli.main import main
from pruning.export import FOLDERS, export_formats, onnx_runner, require_exportable
from pruning.quantize import FORMATS, QuantizedReport, quantized_formats
from pruning.quantize.openvino import openvino_runner
from tests.support.models import TINY, random_images, random_vit


@pytest.fixture
def bundle(tmp_path: Path) -> str:
    folder = tmp_path / "tiny"
    write_bundle(
        folder, random_vit(TINY), Preprocess(TINY.image_size), name="tiny", report={"method": "none"}
    )
    return str(folder)


@pytest.fixture
def photos(tmp_path: Path) -> str:
    for number, image in enumerate(
        np.random.default_rng(0).integers(0, 256, (40, 16, 24, 3), dtype=np.uint8)
    ):
        folder = tmp_path / "photos" / str(number % 10)
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{number}.png")
    return str(tmp_path / "photos")


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["export", *words]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1
    return captured.err


def exported(capsys: pytest.CaptureFixture[str], *words: str) -> dict:
    assert main(["export", *words, "--json"]) == 0
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    return json.loads(out)


def test_onnx_in_int8_with_its_report(capsys, bundle: str, photos: str, tmp_path: Path) -> None:
    words = ["--model", bundle, "--data", photos, "--format", "onnx-int8", "--out", bundle]
    result = exported(capsys, *words)
    assert result.keys() == {"onnx-int8", "onnx-int8-report"}
    assert result["onnx-int8"] == str(Path(bundle) / "model.int8.onnx")
    report = QuantizedReport.read(Path(bundle) / "model.int8.json")
    assert report.to_data() == result["onnx-int8-report"]
    assert QuantizedReport.from_json(report.to_json()) == report
    assert (report.format, report.file, report.data) == ("onnx-int8", "model.int8.onnx", "photos")
    assert report.images == report.top1_change.images == 20 and report.calibration_images == 10
    assert report.top1_int8 - report.top1_float == pytest.approx(report.top1_change.change)
    assert report.timings.keys() == {1, 8} and report.bytes_int8 == Path(result["onnx-int8"]).stat().st_size
    assert len(report.tried) >= 5 and report.agreement >= 0.8
    assert f"{Path(bundle).name}/model.int8.onnx".encode() in zip_bundle(Path(bundle))
    require_exportable(Path(bundle), ["onnx-int8"], quantized_formats(None))  # our own files are replaced


@pytest.mark.slow
def test_the_demo_keeps_its_accuracy(capsys, tmp_path: Path) -> None:
    formats = "bundle,onnx-int8,openvino,openvino-int8"
    words = ["--model", "demo", "--data", "demo", "--limit", "300", "--format", formats]
    pytest.importorskip("openvino", reason="OpenVINO is optional")
    pytest.importorskip("nncf", reason="NNCF is optional")
    result = exported(capsys, *words, "--out", str(tmp_path / "out"))
    assert {path.name for path in (tmp_path / "out").iterdir()} <= set(FILES)
    images = random_images(read_bundle(tmp_path / "out").model.arch, 3)
    model = read_bundle(tmp_path / "out").model
    with torch.inference_mode():
        torch.testing.assert_close(
            openvino_runner(Path(result["openvino"]), 1)(images), model(images), atol=1e-3, rtol=1e-3
        )
    for format, run in (("onnx-int8", onnx_runner), ("openvino-int8", openvino_runner)):
        report = QuantizedReport.from_data(result[f"{format}-report"])
        assert report.top1_change.change >= -0.01 and report.agreement >= 0.98 and report.kl < 0.02
        assert report.bytes_int8 < 0.4 * report.bytes_float
        assert torch.as_tensor(run(Path(result[format]), 1)(images)).shape == (3, 10)


def test_images_are_asked_for_before_the_work(capsys, bundle: str, tmp_path: Path) -> None:
    out = ["--out", str(tmp_path / "out")]
    for format in ("onnx-int8", "bundle,openvino-int8"):
        said = refused(capsys, "--model", bundle, "--format", format, *out)
        assert "is calibrated and measured on images: specify --data D" in said
    assert "--calibration needs --data" in refused(capsys, "--model", bundle, "--calibration", "demo", *out)
    with pytest.raises(ValueError, match="the formats onnx-int8 and openvino-int8 need images"):
        export_formats(
            read_bundle(Path(bundle)), ["onnx-int8"], tmp_path / "out", known=quantized_formats(None)
        )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("format", "missing"),
    [("openvino", "openvino"), ("openvino-int8", "openvino"), ("openvino-int8", "nncf")],
)
def test_a_missing_package_is_named(
    capsys, monkeypatch, bundle: str, tmp_path: Path, format, missing
) -> None:
    there = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == missing else there("json"))
    images = ("--data", "demo") if format.endswith("int8") else ()
    words = ("--model", bundle, "--format", format, "--out", str(tmp_path / "out"))
    said = refused(capsys, *words, *images)
    assert f"the format {format} needs the package {missing}, which is not installed: pip install" in said


def test_features_are_quantised_too(capsys, photos: str, tmp_path: Path) -> None:
    folder = tmp_path / "headless"
    model = random_vit(replace(TINY, num_classes=0))
    write_bundle(folder, model, Preprocess(TINY.image_size), name="tiny", report={"method": "none"})
    words = [
        "--model",
        str(folder),
        "--data",
        photos,
        "--format",
        "onnx-int8",
        "--out",
        str(tmp_path / "out"),
    ]
    assert main(["export", *words]) == 0
    found = QuantizedReport.read(tmp_path / "out" / "model.int8.json")
    assert found.measure == "knn" and 0 <= found.kl < 0.05


@pytest.mark.parametrize("name", ["model.int8.onnx", "model.int8.json"])
def test_files_of_others_are_not_overwritten(capsys, bundle: str, photos: str, tmp_path: Path, name) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text("mine")
    words = ["--model", bundle, "--data", photos, "--format", "onnx-int8", "--out", str(tmp_path / "out")]
    assert f"{name} exists and is no export" in refused(capsys, *words)
    assert (tmp_path / "out" / name).read_text() == "mine"


def test_bundles_know_all_files() -> None:
    known = quantized_formats(None)
    assert set(FORMATS) == {*FOLDERS, *known}
    assert {name for one in known.values() for name in (one.file, *one.beside)} <= set(EXPORTS)


def test_a_damaged_report_is_refused_by_field(tmp_path: Path) -> None:
    (tmp_path / "model.int8.json").write_text('{"version": 1, "format": 3}')
    with pytest.raises(ValueError, match=r"model\.int8\.json"):
        QuantizedReport.read(tmp_path / "model.int8.json")
