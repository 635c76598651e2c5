"""Every page with a model that has no classifier: it speaks of features."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from analysis.models.load import load
from analysis.vit import Architecture, BlockWidths, ViT
from app.state.session import Choice
from app.views.compare.page import TABS
from app.views.prune import offered
from pruning.bundle.write import write_bundle
from pruning.cut.ratios import Ratios
from pruning.jobs.prune_job import Job
from pruning.jobs.recover import RecoverJob
from tests.support.app import PAGES, carry_out, go, newest_run, own_widths, start, text

OPTIONS = (("epochs", 1), ("batch", 8), ("workers", 0))


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    arch = Architecture(
        image_size=(32, 48),
        patch_size=(8, 8),
        embed_dim=24,
        blocks=(BlockWidths(3, 8, 8, 32, 4), BlockWidths(2, 4, 8, 16)),
        num_classes=0,
        scale=8**-0.5,
        registers=1,
    )
    torch.manual_seed(0)
    model = ViT(arch)
    model.init_weights()
    preprocess = replace(load("demo").preprocess, image_size=arch.image_size, labels=())
    folder = tmp_path_factory.mktemp("models") / "backbone"
    return write_bundle(folder, model.eval(), preprocess, name="backbone", report={})


@pytest.fixture
def choice(backbone: Path, photos: Path) -> Choice:
    return Choice(str(backbone), data=str(photos), limit=6)


@pytest.mark.parametrize("page", PAGES)
def test_pages_open(page: str, choice: Choice) -> None:
    app = start(page, choice)
    assert not app.error and not app.exception


def test_features_are_measured(choice: Choice) -> None:
    app = start("model", choice)
    app.button(key="measure-baseline").click().run()
    assert not app.error and "k-NN top-1 accuracy" in [metric.label for metric in app.metric]


def test_budgets_are_said_to_cost_likeness(choice: Choice) -> None:
    assert "What will it cost in likeness of its features?" in text(start("prune", choice))


def test_presets_that_narrow_the_embedding_are_not_offered() -> None:
    small = Architecture((224, 224), (16, 16), 384, (BlockWidths(6, 64, 64, 1536),) * 12, 1000, 64**-0.5)
    assert "snp-deit-small" in offered.fitting_presets(small)
    assert not offered.fitting_presets(replace(small, num_classes=0))


def test_pruning_is_tried_and_run(choice: Choice) -> None:
    app = own_widths(start("prune", choice), "taylor")
    assert "ratio-mlp" in [slider.key for slider in app.slider]
    assert "ratio-embed" not in [slider.key for slider in app.slider]  # its features are what it gives
    app.number_input(key="option-taylor-images").set_value(8).run()
    app.button(key="try").click().run()
    assert "of k-NN top-1 before fine-tuning" in text(app) and not app.error
    assert "pooled-alone" in [toggle.key for toggle in app.toggle]
    app.button(key="prune").click().run()
    assert not app.error and not app.exception
    assert newest_run().bundle is not None
    assert "Cosine with the dense model's features" in text(app)
    assert "By the votes of neighbours" in text(app) and "k-NN top-1 " in text(app)


def test_results_are_compared_recovered_and_exported(choice: Choice) -> None:
    model, data = choice.model, str(choice.data)
    pruned = carry_out(Job(model, data, "l2", ratios=Ratios(qk=0.5, mlp=0.5), limit=6))
    recovered = carry_out(RecoverJob(str(pruned.bundle), model, data, options=OPTIONS, limit=6))
    assert pruned.state == recovered.state == "done", (pruned.error, recovered.error)
    app = start("compare", choice)
    assert "Cosine of pooled features" in app.table[0].value.to_string() and "Top-5" not in text(app)
    for tab in set(TABS) - {"Objects", "Latency", "Calibration"}:
        app.session_state["compare-tab"] = tab
        assert not app.run().error and not app.exception
    app.session_state["compare-tab"] = "Report"
    app.run()
    app.button(key="make-report").click().run()
    assert not app.error and not app.exception
    app = go(app, "recover")
    assert not app.error and "learns its teacher's features" in text(app)
    app = go(app, "runs")
    (table,) = [shown.value for shown in app.dataframe if "Folder" in shown.value]
    assert "Top-1" not in table and all(table["k-NN top-1"])
    app = go(app, "export")
    assert not app.error and "features(read(" in "\n".join(block.value for block in app.code)


def test_a_bundle_is_measured_beside_the_run(choice: Choice, backbone: Path, tiny_bundle: Path) -> None:
    carry_out(Job(choice.model, str(choice.data), "l2", ratios=Ratios(mlp=0.5), limit=6))
    for other, said in ((backbone, None), (tiny_bundle, "has a classifier, but the dense model has no")):
        app = start("compare", choice)
        app.text_input(key="compare-path").set_value(str(other)).run()
        app.button(key="compare-open-button").click().run()
        assert not app.exception
        assert bool(app.error) == (said is not None), [error.value for error in app.error]
        assert said is None or said in app.error[0].value


def test_heads_are_measured_and_left_out(choice: Choice) -> None:
    app = start("heads", choice)
    app.number_input(key="heads-measured-on").set_value(4).run()
    app.button(key="measure-heads").click().run()
    assert "Measured on 4 calibration images" in text(app) and not app.error
    app.button(key="head-what-if").click().run()
    assert "k-NN top-1 is" in text(app) and not app.error
