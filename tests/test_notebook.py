"""The notebook of docs/ runs from its first cell to its last."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pruning.bundle import is_bundle
from tests.support.models import ROOT

NOTEBOOK = ROOT / "docs" / "library.ipynb"


@pytest.mark.slow
def test_the_notebook_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    names: dict[str, Any] = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []  # figures that go out of date
            exec("".join(cell["source"]), names)
    assert names["after"].top1 > 0.9 and names["small"].report["gmacs_after"] < 0.15
    assert "of 256 images" in capsys.readouterr().out
    assert is_bundle(tmp_path / "smaller") and (tmp_path / "for-onnx" / "model.onnx").exists()
