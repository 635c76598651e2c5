"""Int8 files beside the models that are compared: found in their folders, shown with figures of their own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from analysis.models.load import architecture
from analysis.models.reading import Named
from pruning.cli.main import main
from pruning.report.comparison import with_int8
from pruning.report.quantized import int8_columns, quantized_in
from tests.pruning.report.test_html import comparison
from tests.support.int8 import int8_report

NARROW = int8_report(format="openvino-int8", runtime="OpenVINO 2026.4.1", timings={})


def test_every_file_is_a_column_of_the_same_rows() -> None:
    columns = int8_columns([("dense", ()), ("run 1", (int8_report(), NARROW))])
    assert list(columns) == ["run 1 int8", "run 1 int8, OpenVINO"]
    first, second = columns.values()
    assert list(first) == list(second)
    assert first["Top-1"] == "89.5\u00a0%" and first["Top-1 of the float file"] == "90.0\u00a0%"
    assert first["Change (95 % interval)"].startswith("-0.5 points (-3.0 to +1.7), p = 1")
    assert first["Size"] == "2.0\u00a0MB (-75.0\u00a0%)"
    assert first["Latency, batch 8"] == "10.0\u00a0ms" and second["Latency, batch 8"] == ""
    assert first["Speed-up, batch 8"] == "2.00× (1.90 to 2.10), faster"
    assert int8_columns([("dense", ())]) == {}


def test_it_lies_in_the_bundle_or_beside_it_in_a_run(tmp_path: Path) -> None:
    model = comparison(tmp_path).others[0]
    run = tmp_path / "run"
    (run / "bundle").mkdir(parents=True)
    in_run = replace(model, source=Named(str(run / "bundle")))
    assert with_int8(in_run).int8 == ()
    (run / "bundle" / "model.int8.json").write_text(int8_report().to_json())
    (run / "openvino.int8.json").write_text(NARROW.to_json())
    assert with_int8(in_run).int8 == (int8_report(),)  # what lies around a bundle is not its own
    (run / "job.json").write_text("{}")
    assert with_int8(in_run).int8 == (int8_report(), NARROW)
    assert with_int8(in_run, [int8_report(images=7)]).int8[-1].images == 7
    assert with_int8(replace(model, source=Named("demo"))).int8 == ()
    assert with_int8(replace(model, source=Named("deit_tiny_patch16_224"))).int8 == ()


def test_a_damaged_one_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "model.int8.json").write_text(int8_report().to_json().replace("0.895", "1.5"))
    with pytest.raises(ValueError, match=r"model\.int8\.json.*`top1_int8` must be a fraction from 0 to 1"):
        quantized_in([tmp_path])


def test_the_report_has_a_column_for_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, page = tmp_path / "small", tmp_path / "report.html"
    words = ["prune", "--model", "demo", "--data", "demo", "--method", "l1", "--mlp", "0.5", "--limit", "20"]
    assert main([*words, "--out", str(out)]) == 0
    assert architecture(str(out))
    assert main(["report", str(out), "--out", str(page)]) == 0
    assert "In int8" not in page.read_text(encoding="utf-8")
    (out / "model.int8.json").write_text(int8_report().to_json())
    assert main(["report", str(out), "--out", str(page)]) == 0
    shown = page.read_text(encoding="utf-8")
    assert "In int8" in shown and "run 1 int8" in shown and "2.0\u00a0MB (-75.0\u00a0%)" in shown
