"""The direction of imports: app -> pruning -> analysis, never back; and who may import what."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.models import ROOT

PACKAGES = {"analysis": set(), "pruning": {"analysis"}, "app": {"analysis", "pruning"}}
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module or ""


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_direction(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    roots = {name.partition(".")[0] for name in imported(path)}
    forbidden = PACKAGES.keys() - PACKAGES[package] - {package}
    assert not roots & forbidden
    assert not roots & {"tests", "benchmarks"}
    if package != "app":
        assert "streamlit" not in roots
    if not path.name.startswith("charts"):
        assert "plotly" not in roots
    if package == "app":
        assert "timm" not in roots


def test_the_model_file_needs_torch_alone() -> None:
    roots = {name.partition(".")[0] for name in imported(ROOT / "analysis" / "vit.py")}
    assert roots == {
        "__future__",
        "collections",
        "contextlib",
        "dataclasses",
        "functools",
        "json",
        "torch",
        "typing",
    }


def test_the_test_would_notice() -> None:
    assert len(FILES) > 20
    assert set(imported(ROOT / "pruning" / "cut" / "surgery.py")) >= {
        "analysis.vit",
        "pruning.cut.plan",
        "torch.nn.functional",
    }
