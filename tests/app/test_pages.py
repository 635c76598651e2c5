"""Every page in its normal, empty and error states, without a browser."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from analysis.measure.cost import cost
from analysis.models.load import load, read_bundle
from analysis.vit import ViT
from app import wording
from app.state.session import Choice
from pruning.bundle.write import write_bundle
from pruning.runs import folder as runs
from tests.support.app import PAGES, build, go, newest_run, own_widths, start, text

# ---- normal


def test_model_page_shows_the_demo_and_measures_it() -> None:
    app = start()
    shown = {metric.label: metric.value for metric in app.metric}
    assert shown["Parameters"] == wording.count(cost(load("demo").model.arch).params)
    app.button(key="measure-baseline").click().run()
    assert "20 images" in app.metric[3].delta
    assert not app.exception


def test_prune_page_estimates_as_sliders_move() -> None:
    app = own_widths(start("prune"))
    app.slider(key="ratio-qk").set_value(0).run()
    app.slider(key="ratio-v").set_value(0).run()
    app.slider(key="ratio-mlp").set_value(50).run()
    dense = load("demo").model.arch
    half = replace(dense, blocks=tuple(replace(block, mlp=384) for block in dense.blocks))
    assert app.metric[0].value == wording.count(cost(half).params)
    assert "--mlp 0.5" in app.code[0].value


def test_heads_by_another_criterion_and_compensation_reach_the_job_and_are_tried(
    tiny_bundle: Path, photos: Path
) -> None:
    app = own_widths(start("prune", Choice(str(tiny_bundle), data=str(photos), limit=6)), "l2")
    app.slider(key="ratio-heads").set_value(50).run()
    app.selectbox(key="heads-by-chooses").set_value("l1").run()
    app.toggle(key="compensate").set_value(True).run()
    assert "--heads-by l1" in app.code[0].value and "--compensate" in app.code[0].value
    app.button(key="try").click().run()
    assert not app.exception and "Rough estimate" in text(app)


def test_journey_from_sliders_to_bundle(tmp_path: Path) -> None:
    app = own_widths(start("prune"))
    app.number_input(key="option-snp-images").set_value(8).run()
    app.button(key="try").click().run()
    assert "Rough estimate" in text(app)
    app.button(key="prune").click().run()
    assert "Run 2: SNP, pairs 50 %" in text(app)
    run = newest_run()
    assert run.job is not None and run.bundle is not None
    small = read_bundle(run.bundle).model.arch
    assert small == run.job.target(load("demo").model.arch)

    go(app, "compare")
    table = app.table[0].value
    assert table.loc["Parameters", "run 2"].split()[0] == wording.count(cost(small).params)
    assert table.loc["Measured", "run 2"] == "before fine-tuning"
    go(app, "export")
    build(app, "bundle")
    assert not app.exception
    packed = app.session_state["numbered runs"][str(run.folder)].files[
        "bundle float16"
    ]  # as the demo is stored
    assert read_bundle(packed.with_suffix("")).model.arch == small


def test_a_projection_is_tried_and_run_like_any_method(
    tiny_bundle: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pruning.jobs.run_prune.ROUGH_IMAGES", 8)
    app = own_widths(start("prune", Choice(str(tiny_bundle), data=str(photos), limit=6)), "spectral")
    app.number_input(key="option-spectral-images").set_value(8).run()
    app.button(key="try").click().run()
    assert "Rough estimate" in text(app)
    app.button(key="prune").click().run()
    assert "Run 2: Spectral, pairs 50 %" in text(app)
    go(app, "export")
    build(app, "bundle")
    assert not app.exception and not app.error


def test_a_switch_of_a_method_reaches_the_job() -> None:
    app = own_widths(start("prune"), "l2")
    assert "group" not in app.code[0].value
    app.toggle(key="option-l2-group").set_value(True).run()
    assert "--option group=True" in app.code[0].value and not app.error


def test_per_block_percentages_survive_the_page_and_reach_the_job() -> None:
    app = own_widths(start("prune"), "snp", "blocks")
    edited = app.session_state["blocks-6"].copy()
    edited.loc[2, "mlp"] = 75
    app.session_state["blocks-6"] = edited
    go(app, "attention")
    go(app, "prune")
    assert "--mlp 0,0,0.75,0,0,0" in app.code[0].value


@pytest.mark.parametrize("page", PAGES)
def test_pages_take_a_model_of_another_shape(page: str, tiny_bundle: Path, photos: Path) -> None:
    app = start(page, Choice(str(tiny_bundle), data=str(photos), limit=6))
    assert not app.error


# ---- empty


def test_without_runs_the_page_of_comparisons_says_what_to_do() -> None:
    app = start("compare")
    assert "Nothing has been pruned" in app.info[0].value
    assert not app.error


@pytest.mark.parametrize("page", PAGES)
def test_pages_without_images(page: str) -> None:
    app = start(page, Choice(data=None))
    assert not app.error
    assert "images" in text(app)


def test_pruning_without_images_says_where_to_choose_them() -> None:
    app = start("prune", Choice(data=None))
    app.button(key="prune").click().run()
    assert "sidebar" in app.info[0].value
    assert not runs.list_runs()


# ---- errors


@pytest.mark.parametrize("page", PAGES)
def test_a_model_that_is_gone_is_one_sentence(page: str, tmp_path: Path) -> None:
    app = start(page, Choice(model=str(tmp_path / "gone")))
    assert "There is no bundle folder" in app.error[0].value


@pytest.mark.parametrize("page", ["model", "attention"])
def test_images_that_are_gone_are_one_sentence(page: str, tmp_path: Path) -> None:
    app = start(page, Choice(data=str(tmp_path / "gone")))
    assert "There is no file or folder" in app.error[0].value


def test_loading_something_wrong_keeps_what_was_loaded(tmp_path: Path) -> None:
    app = start()
    app.selectbox(key="model-source").set_value("bundle").run()
    app.text_input(key="bundle-folder").set_value(str(tmp_path)).run()
    app.button(key="load").click().run()
    assert "is not a bundle" in app.error[0].value
    assert app.session_state["choice"].model == "demo"


def test_demo_scenes_are_left_out_for_a_model_of_other_classes(tiny_bundle: Path) -> None:
    app = start()
    app.selectbox(key="model-source").set_value("bundle").run()
    app.text_input(key="bundle-folder").set_value(str(tiny_bundle)).run()
    app.button(key="load").click().run()
    assert not app.error and app.selectbox(key="image-source").value == "none"
    assert "no images" in text(app)
    assert app.session_state["choice"] == Choice(str(tiny_bundle), data=None, limit=Choice.limit)


def test_ratios_that_leave_nothing_are_one_sentence(tiny_bundle: Path, photos: Path) -> None:
    app = own_widths(start("prune", Choice(str(tiny_bundle), data=str(photos), limit=6)))
    app.slider(key="ratio-heads").set_value(90).run()
    assert "leaves nothing of heads" in app.error[0].value
    assert not app.exception


def test_a_model_without_classifier_is_looked_at_and_measured(tmp_path: Path, photos: Path) -> None:
    demo = load("demo")
    torch.manual_seed(0)
    model = ViT(replace(demo.model.arch, num_classes=0)).eval()
    model.init_weights()
    preprocess = replace(demo.preprocess, labels=())
    write_bundle(tmp_path / "features", model, preprocess, name="features", report={})
    app = start("attention", Choice(str(tmp_path / "features"), data=str(photos), limit=6))
    assert "no classifier" in text(app)
    assert not app.error
    go(app, "model")
    app.button(key="measure-baseline").click().run()
    assert not app.error and "k-NN top-1 accuracy" in [metric.label for metric in app.metric]


def test_removing_nothing_is_one_sentence() -> None:
    app = own_widths(start("prune"))
    for name in ("qk", "v", "mlp"):
        app.slider(key=f"ratio-{name}").set_value(0)
    app.run()
    app.button(key="prune").click().run()
    assert "nothing to remove" in app.error[0].value
    assert not runs.list_runs()


def test_a_photo_that_is_no_image_is_one_sentence() -> None:
    app = start("attention", Choice(data=None))
    app.file_uploader(key="photo").set_value([("photo.jpg", b"not a picture", "image/jpeg")]).run()
    assert "photo.jpg is not an image" in app.error[0].value
    assert not app.exception


def test_an_uploaded_photo_is_looked_at() -> None:
    app = start("attention", Choice(data=None))
    content = io.BytesIO()
    Image.new("CMYK", (90, 50), (10, 200, 30, 0)).save(content, "JPEG")
    app.file_uploader(key="photo").set_value([("photo.jpg", content.getvalue(), "image/jpeg")]).run()
    assert not app.error
    assert "photo.jpg" in text(app)
