"""The recipes of docs/deploy.md, run as they stand on the demo model."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from analysis.data.images import read_image
from analysis.data.open import open_data
from analysis.models.load import load
from pruning.export import export_formats
from tests.support.models import ROOT

RECIPES = {
    name: (language, code)
    for name, language, code in re.findall(
        r"<!-- run: ([\w-]+) -->\n```(\w+)\n(.*?)```", (ROOT / "docs" / "deploy.md").read_text("utf-8"), re.S
    )
}


def needs(*packages: str) -> pytest.MarkDecorator:
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"optional packages that are not installed: {missing}")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of the demo with model.onnx, model.pt2 and photo.jpg in it."""
    folder, loaded = tmp_path_factory.mktemp("recipes") / "exported", load("demo")
    export_formats(loaded, ["bundle", "onnx", "pt2"], folder)
    open_data("demo", loaded.preprocess, 10, "test").image(5).resize((110, 80)).save(folder / "photo.jpg")
    return folder


def follow(name: str, folder: Path, after: str = "") -> str:
    """Run a recipe in a process that cannot import this project; returns what it prints."""
    language, code = RECIPES[name]
    command = ["bash", "-c", f"PATH={Path(sys.executable).parent}:$PATH; {code}"]
    if language == "python":
        own = f"import sys; sys.path.insert(0, '')\n{code}\n{after}"
        command = [sys.executable, "-I", "-W", "ignore", "-c", own]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def logits(folder: Path) -> np.ndarray:
    """Those of the model for the images that the recipe of ONNX Runtime has prepared."""
    with torch.inference_mode():
        found: np.ndarray = load("demo").model(torch.from_numpy(np.load(folder / "images.npy"))).numpy()
    return found


def test_every_recipe_that_is_marked_is_run_here() -> None:
    assert set(RECIPES) == {"onnx", "compile", "ort", "openvino", "ncnn", "trace"}


def test_onnx_runtime(exported: Path) -> None:
    """The image is prepared as the project does it, but for rounding of the resized sides."""
    loaded = load("demo")
    printed = follow("onnx", exported).strip()
    expected = loaded.preprocess(read_image(exported / "photo.jpg"))[None].numpy()
    np.testing.assert_allclose(np.load(exported / "images.npy"), expected, atol=1e-5)
    np.testing.assert_allclose(np.load(exported / "onnx.npy"), logits(exported), atol=1e-4)
    assert printed == loaded.preprocess.labels[logits(exported)[0].argmax()]


def test_the_model_is_traced_for_core_ml(exported: Path) -> None:
    again = "x = torch.rand(images.shape); print(float((traced(x) - model(x)).abs().max()))"
    assert float(follow("trace", exported, again)) < 1e-5


@pytest.mark.slow
@pytest.mark.skipif(not any(map(shutil.which, ("g++", "clang++", "c++"))), reason="needs a C++ compiler")
def test_torch_compiles_the_bundle(exported: Path) -> None:
    follow("onnx", exported)
    follow("compile", exported)
    np.testing.assert_allclose(np.load(exported / "compiled.npy"), logits(exported), atol=1e-4)


@pytest.mark.slow
def test_the_ort_format_of_phones(exported: Path) -> None:
    import onnxruntime

    follow("onnx", exported)
    follow("ort", exported)
    session = onnxruntime.InferenceSession(exported / "model.ort")
    found = session.run(["logits"], {"images": np.load(exported / "images.npy")})[0]
    np.testing.assert_allclose(found, logits(exported), atol=1e-4)


@pytest.mark.slow
@needs("openvino")
def test_openvino(exported: Path) -> None:
    follow("onnx", exported)
    follow("openvino", exported)
    for name in ("onnx", "pt2"):
        np.testing.assert_allclose(np.load(exported / f"openvino-{name}.npy"), logits(exported), atol=1e-4)
    assert (exported / "model.xml").is_file() and (exported / "model.bin").is_file()


@pytest.mark.slow
@needs("ncnn", "pnnx")
def test_ncnn(exported: Path) -> None:
    follow("onnx", exported)
    export_formats(load("demo"), ["ncnn"], exported)
    follow("ncnn", exported)
    np.testing.assert_allclose(np.load(exported / "ncnn.npy"), logits(exported), atol=1e-3)
