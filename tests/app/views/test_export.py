"""The Export page: every format of a run and of the loaded model, and snippets that run as they stand."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from streamlit.testing.v1 import AppTest

from analysis.data.images import read_image
from analysis.data.open import open_data
from analysis.measure.cost import cost
from analysis.models.load import LoadedModel, load, read_bundle
from app import wording
from app.state.session import Choice
from app.views.export import formats
from app.views.export.files import zipped
from pruning.export import FOLDERS, require_packages
from pruning.quantize import FORMATS
from pruning.quantize.report import QuantizedReport
from tests.support.app import build, elements, go, only_run, own_widths, pruned, start, text
from tests.support.bundles import ISOLATION

UNPACKED = (*FOLDERS, "ncnn", "openvino", "openvino-int8")


def metrics(app: AppTest) -> dict[str, str]:
    return {metric.label: metric.value for metric in app.metric}


def classified(
    code: str, folder: Path, before: str = "import sys; sys.path.insert(0, '')"
) -> list[tuple[str, float]]:
    """What a snippet prints in a process that cannot import this project: labels and figures."""
    done = subprocess.run(
        [sys.executable, "-I", "-W", "ignore", "-c", f"{before}\n{code}"],
        cwd=folder,
        env=os.environ | {"HF_HOME": str(folder / "home")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = [line.rsplit(" ", 1) for line in done.stdout.splitlines()]
    return [(label, float(value)) for label, value in lines]


def expected(loaded: LoadedModel, file: Path) -> tuple[list[str], torch.Tensor]:

    with torch.inference_mode():
        logits = loaded.model(loaded.preprocess(read_image(file))[None])[0]
    best = logits.argsort(descending=True)[:3]
    return [loaded.preprocess.labels[index] for index in best], logits[best]


def test_a_run_of_another_model_is_not_taken_for_one_of_the_loaded_model(tiny_bundle: Path) -> None:
    app = go(pruned(), "export")
    (run, loaded) = app.selectbox(key="export-run").options
    assert "demo" not in run and loaded.startswith("demo, the loaded model")
    other = start("export", Choice(str(tiny_bundle), data=None))
    name = f"{tiny_bundle.name}, the loaded model, not pruned"
    assert other.selectbox(key="export-run").options == [name, f"{run} · demo"]
    assert go(other, "recover").selectbox(key="student").options[0] == f"{run} · demo"


def test_the_loaded_model_is_exported_as_it_is() -> None:
    """Without any run: sizes, no accuracy yet, no plan.json, and the right file."""
    app = start("export")
    dense = load("demo")
    assert metrics(app)["Parameters"] == wording.count(cost(dense.model.arch).params)
    assert "has not been measured yet" in text(app)
    assert "plan.json" not in "\n".join(app.table[0].value.index.astype(str))
    build(app, "bundle")
    assert not app.exception and not app.error
    packed = app.session_state["dense files"][1]["bundle float16"]
    with zipfile.ZipFile(packed) as archive:
        archive.extractall(packed.parent / "unpacked")
    found = read_bundle(packed.parent / "unpacked" / "demo")
    assert found.half and found.model.arch == dense.model.arch
    for name, value in dense.model.state_dict().items():
        assert torch.equal(found.model.state_dict()[name], value), name
    assert "--model demo --format bundle --dtype float16" in app.code[-1].value


def test_a_run_shows_what_it_costs_and_the_precision_is_chosen() -> None:
    app = go(pruned(), "export")
    run = only_run()
    assert run.bundle is not None
    assert "Top-1, before fine-tuning" in metrics(app)
    assert "plan.json" in str(app.table[0].value)
    assert app.segmented_control[0].value == "float16"
    app.segmented_control[0].set_value("float32").run()
    build(app, "bundle")
    assert not app.exception and not app.error
    packed = app.session_state["numbered runs"][str(run.folder)].files["bundle float32"]
    with zipfile.ZipFile(packed) as archive:
        archive.extractall(packed.parent / "unpacked")
    found = read_bundle(next((packed.parent / "unpacked").iterdir()))
    assert not found.half and found.model.arch == read_bundle(run.bundle).model.arch
    app.selectbox(key="export-run").set_value("dense").run()
    assert not app.exception and "the weights, float16" in str(app.table[0].value)


@pytest.mark.slow
def test_every_snippet_runs_on_the_file_it_names(tmp_path: Path) -> None:
    """Built on the page, run in a process that has not this project: the labels and logits of the model."""
    app = start("export", Choice(limit=10))
    dense = load("demo")

    photo = tmp_path / "photo.jpg"
    open_data("demo", dense.preprocess, 10, "test").image(3).resize((90, 70)).save(photo, quality=95)
    labels, logits = expected(dense, photo)
    for format in [name for name in FORMATS if not name.endswith("int8") and formats.shown()[name].snippet]:
        if format == "transformers" and find_spec(format) is None:
            continue
        try:
            require_packages(format)
        except ValueError:  # an optional package is not installed
            continue
        build(app, format)
        assert not app.exception and not app.error
        built = app.session_state["dense files"][1]
        file = built[f"{format} float16" if format in FOLDERS else format]
        assert file.stem.endswith("-transformers") == (format == "transformers")  # told apart from the bundle
        folder = tmp_path / format
        folder.mkdir()
        if format in UNPACKED:
            with zipfile.ZipFile(file) as archive:
                archive.extractall(folder)
            folder = next(folder.iterdir())
        else:
            (folder / file.name).write_bytes(file.read_bytes())
        (folder / "photo.jpg").write_bytes(photo.read_bytes())
        code = next(block.value for block in app.code if block.value.startswith(_begin(format)))
        # transformers takes a torchvision that does not fit torch for one that does
        told = classified(code, folder, *[ISOLATION] * (format == "transformers"))
        assert [label for label, _ in told] == labels, format
        if format != "bundle":  # whose figures are probabilities
            assert [value for _, value in told] == pytest.approx(logits.tolist(), abs=2e-3), format


def _begin(format: str) -> str:
    """How the snippet of a format begins; formats of one library differ in the file that they name."""
    return formats.shown()[format].snippet.partition("FILE")[0].strip()


def test_downloads_stay_once_built() -> None:
    """A format is built once a session, also after another page was seen."""
    app = start("export")
    build(app, "onnx")
    go(app, "attention")
    go(app, "export")
    assert [one.proto.id for one in elements(app, "download_button")]
    assert not [button for button in app.button if button.key == "build" and not button.disabled]


@pytest.mark.slow
def test_an_int8_file_is_measured_runs_as_told_and_stands_in_compare(tmp_path: Path) -> None:
    """Quantised on the session's images: figures below the formats, the same in Compare."""
    app = start("export", Choice(limit=20))
    pytest.importorskip("onnxruntime")
    build(app, "onnx-int8")
    assert not app.exception and not app.error
    built = app.session_state["dense files"][1]
    file, report = built["onnx-int8"], QuantizedReport.read(built["onnx-int8 report"])
    assert file.name == "demo-int8.onnx" and report.images == 20
    figures = next(table.value for table in app.table if "Speed-up, batch 8" in table.value.index)
    assert figures.loc["Top-1", "ONNX, int8"] == wording.percent(report.top1_int8)
    (tmp_path / file.name).write_bytes(file.read_bytes())
    dense, photo = load("demo"), tmp_path / "photo.jpg"
    open_data("demo", dense.preprocess, 10, "test").image(3).resize((90, 70)).save(photo, quality=95)
    code = next(block.value for block in app.code if file.name in block.value)
    assert classified(code, tmp_path)[0][0] == expected(dense, photo)[0][0]
    go(app, "prune")
    own_widths(app, "l1")
    app.button(key="prune").click().run()
    go(app, "compare")
    assert not app.exception and not app.error
    assert app.table[1].value.loc["Top-1", "dense int8"] == wording.percent(report.top1_int8)


def test_quantising_without_images_says_where_to_choose_them() -> None:
    app = start("export", Choice(data=None))
    build(app, "onnx-int8")
    assert not app.exception and "calibrated and tested on images" in app.info[0].value
    assert "--format onnx-int8 --data photos" in app.code[-1].value


def test_a_format_whose_packages_are_missing_says_so_beforehand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules["pruning.export.packages"]._PACKAGES, "pt2", ("no_such_package",))
    assert "pip install no" in text(start("export", Choice(data=None)))


def test_several_formats_are_built_by_one_press_and_lie_in_one_zip(tmp_path: Path) -> None:
    """One that fails, here for want of images, does not stop the others."""
    app = start("export", Choice(data=None))
    assert "1 file, about" in text(app) and not elements(app, "download_button")
    build(app, "bundle", "onnx-int8", "pt2")
    assert not app.exception and "calibrated and tested on images" in app.info[0].value
    assert "1 file, about" in text(app) and not app.button(key="build").disabled
    one, other, all_files = elements(app, "download_button")
    assert [button.proto.label.partition(",")[0] for button in (one, other)] == ["Download"] * 2
    assert all_files.proto.label.startswith("Download all 2")
    built = app.session_state["dense files"][1]
    (tmp_path / "all.zip").write_bytes(zipped([built["bundle float16"], built["pt2"]]))
    with zipfile.ZipFile(tmp_path / "all.zip") as archive:
        assert archive.namelist() == ["demo.zip", "demo.pt2"]
        assert archive.read("demo.pt2") == built["pt2"].read_bytes()
