"""The wheel: one package, `prunescope`, with the same code; nothing of it has a common name."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import tomllib
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.support.browser import end, free_port, wait_until_up
from tests.support.models import ROOT

OTHERS = ("analysis", "app", "pruning")  # packages of someone else, in the same environment


@pytest.fixture(scope="module")
def builder() -> ModuleType:
    spec = importlib.util.spec_from_file_location("builder", ROOT / "setup.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def site(builder: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel installed, and other packages that have the repository's names."""
    folder = tmp_path_factory.mktemp("wheel")
    quiet = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    sources = folder / "sources"  # so that nothing is left in the repository
    for file in [
        *builder.files(),
        *map(Path, ("setup.py", "pyproject.toml", "requirements.txt", "README.md")),
    ]:
        (sources / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, sources / file)
    build = ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(sources)]
    subprocess.run([*quiet, *build], check=True)
    (wheel,) = folder.glob("*.whl")
    tops = {name.partition("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {top.partition("-")[0] for top in tops} == {"prunescope"}
    subprocess.run([*quiet, "install", "--no-deps", "--target", str(folder / "site"), str(wheel)], check=True)
    for name in OTHERS:
        (folder / "site" / f"{name}.py").write_text("theirs = True\n")
    return folder / "site"


def environment(site: Path, runs: Path) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(site), "PRUNESCOPE_RUNS": str(runs)}


def command(site: Path, runs: Path, *words: str) -> str:
    """What the installed command prints, called from elsewhere."""
    done = subprocess.run(
        [sys.executable, str(site / "bin" / "prunescope"), *words],
        cwd=runs.parent,
        env=environment(site, runs),
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def test_imports_and_commands_are_those_of_the_package(builder: ModuleType) -> None:
    source = (
        "import analysis.vit as model\nfrom pruning import load\nif load:\n    from app.parts import marks\n"
        'from apples import x\nfrom . import app\nwords = [\'python\', "python", "-m", "pruning", \'run\']\n'
        'print("`python -m pruning kit`, `python -m app --share`, from pruning import load")\n'
    )
    assert builder.rewritten(source) == (
        "import prunescope.analysis.vit as model\nfrom prunescope.pruning import load\nif load:\n"
        "    from prunescope.app.parts import marks\nfrom apples import x\nfrom . import app\n"
        "words = ['python', \"prunescope\", 'run']\n"
        'print("`prunescope kit`, `prunescope app --share`, from pruning import load")\n'
    )
    with pytest.raises(ValueError, match="must say `from` or `as`"):
        builder.rewritten("import analysis.vit\n")


def test_requirements_reach_to_the_next_major_version(builder: ModuleType) -> None:
    pins = [line.split("==") for line in (ROOT / "requirements.txt").read_text().split()]
    assert [one.partition(">=")[0] for one in builder.requirements()] == [name for name, _ in pins]
    torch = next(version for name, version in pins if name == "torch")
    assert f"torch>={torch},<{int(torch.split('.')[0]) + 1}" in builder.requirements()


@pytest.mark.slow
def test_it_prunes_beside_packages_of_the_same_names(site: Path, tmp_path: Path, tiny_data: Any) -> None:
    model, data = tiny_data
    code = (
        "import analysis, app, pruning, sys; import prunescope; from prunescope import load, prune\n"
        "assert analysis.theirs and app.theirs and pruning.theirs\n"
        "from prunescope.analysis.measure import cost\n"
        f"model = load({str(model)!r}).model; print(cost(model.arch).params)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(site, tmp_path / "runs"),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert command(site, tmp_path / "runs", "--version") == f"PruneScope {version}\n"
    told = json.loads(command(site, tmp_path / "runs", "estimate", "--model", str(model), "--json"))
    assert int(done.stdout) == told["params_before"]
    words = ["--model", str(model), "--data", str(data), "--method", "l1", "--mlp", "0.5"]
    begun = json.loads(command(site, tmp_path / "runs", "prune", *words, "--detach", "--json"))
    for _ in range(120):
        (run,) = json.loads(command(site, tmp_path / "runs", "runs", "--json"))["runs"]
        if run["state"] not in ("queued", "running"):
            break
        time.sleep(1)
    assert run["state"] == "done" and Path(begun["run"]).name in str(run)


@pytest.mark.slow
def test_the_app_opens(site: Path, tmp_path: Path) -> None:
    port = free_port()
    server = subprocess.Popen(
        [sys.executable, str(site / "bin" / "prunescope"), "app", f"--server.port={port}"],
        cwd=tmp_path,
        env=environment(site, tmp_path / "runs") | {"STREAMLIT_SERVER_HEADLESS": "true"},
        start_new_session=True,
    )
    try:
        wait_until_up(f"http://localhost:{port}/_stcore/health", server)
    finally:
        end(server, signal.SIGTERM)
