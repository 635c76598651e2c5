"""Every page on a bundle whose last block computes only the tokens that the classifier reads."""

from __future__ import annotations

from pathlib import Path

import pytest

from analysis.models.load import read_bundle
from analysis.vit import Architecture, BlockWidths
from app.state.session import Choice
from app.views.compare.page import TABS
from pruning.cut.ratios import Ratios
from pruning.jobs.prune_job import Job
from pruning.jobs.recover import RecoverJob
from tests.support.app import PAGES, bundle, carry_out, go, newest_run, own_widths, start, text


@pytest.fixture(scope="module")
def lean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Distilled, with query-key and value widths that differ, and RMSNorm as a rotation leaves it."""
    arch = Architecture(
        image_size=(32, 48),
        patch_size=(8, 8),
        embed_dim=24,
        blocks=(BlockWidths(3, 8, 8, 32), BlockWidths(2, 4, 8, 16)),
        num_classes=3,
        scale=8**-0.5,
        distilled=True,
        norm="rms",
        skip_unread=True,
    )
    return bundle(arch, tmp_path_factory.mktemp("models") / "lean", seed=0)


@pytest.fixture
def choice(lean: Path, photos: Path) -> Choice:
    return Choice(str(lean), data=str(photos), limit=6)


@pytest.mark.parametrize("page", PAGES)
def test_pages_open(page: str, choice: Choice) -> None:
    app = start(page, choice)
    assert not app.error and not app.exception


@pytest.mark.parametrize("method", ["taylor", "snp", "spectral"])
def test_pruning_is_tried_and_run(method: str, choice: Choice, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pruning.jobs.run_prune.ROUGH_IMAGES", 8)
    app = own_widths(start("prune", choice), method)
    app.number_input(key=f"option-{method}-images").set_value(8).run()
    app.button(key="try").click().run()
    assert "Rough estimate" in text(app) and not app.error
    app.button(key="prune").click().run()
    assert not app.error and not app.exception
    run = newest_run()
    assert run.bundle is not None and read_bundle(run.bundle).model.arch.skip_unread


def test_results_of_it_are_compared_recovered_and_exported(choice: Choice) -> None:
    model, data = choice.model, str(choice.data)
    pruned = carry_out(Job(model, data, "taylor", ratios=Ratios(qk=0.5, heads=(0.4, 0.0)), limit=6))
    options = (("epochs", 1), ("batch", 8), ("workers", 0))
    recovered = carry_out(RecoverJob(str(pruned.bundle), model, data, options=options, limit=6))
    assert pruned.state == recovered.state == "done"
    app = start("compare", choice)
    for tab in set(TABS) - {"Objects", "Latency"}:  # photos have no masks; times are taken on demand
        app.session_state["compare-tab"] = tab
        assert not app.run().error and not app.exception
    for page in ("recover", "export"):
        assert not go(app, page).error


def test_it_is_not_asked_to_skip_what_it_skips_already(choice: Choice) -> None:
    """The page said how much that would save, and nothing changed."""
    asked = [toggle.key for toggle in own_widths(start("prune", choice)).toggle]
    assert "compensate" in asked and "skip-unread" not in asked
    assert "skip-unread" in [toggle.key for toggle in own_widths(start("prune", Choice(limit=6))).toggle]


def test_heads_are_measured(choice: Choice) -> None:
    app = start("heads", choice)
    app.number_input(key="heads-measured-on").set_value(4).run()
    app.button(key="measure-heads").click().run()
    assert "Measured on 4 calibration images" in text(app) and not app.error
