"""The Compare page in its normal, empty and error states, without a browser."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from streamlit.testing.v1 import AppTest

from analysis.attention.maps import default_row, rollout_maps
from analysis.attention.preservation import share_moved
from analysis.measure.confidence import reliability
from analysis.measure.evaluate import Agreement, evaluate, wilson
from analysis.measure.paired import paired_change
from analysis.measure.speedup import compare as compared
from analysis.models.load import architecture, read_bundle
from app.parts import charts
from app.parts.wipe import wipe
from app.state import comparison, session_runs
from app.state.finished_runs import OpenedRun
from app.state.session import Choice
from app.views.compare import charts as compare_charts
from app.views.compare import predictions as compare_predictions
from pruning import wording
from pruning.cut.ratios import Ratios
from pruning.cut.shorter import with_merges
from pruning.jobs.bench import TIMINGS, BenchJob
from pruning.jobs.prune_job import Job
from pruning.report.comparison import ComparedModel, Trade
from pruning.report.objects import object_scores
from pruning.runs import folder as runs
from tests.support.app import MAIN, carry_out, go, pruned, text
from tests.support.devices import made_up, price
from tests.support.models import TINY

Runs = Callable[..., list[runs.Run]]


@pytest.fixture
def two(tiny_bundle: Path, photos: Path) -> list[runs.Run]:
    """Two runs of the tiny model, which loses a head in one of them."""
    ratios = (Ratios(qk=0.5, v=0.8, mlp=0.9), Ratios(heads=(0.4, 0.0)))
    return [carry_out(Job(str(tiny_bundle), str(photos), "l1", ratios=one, limit=12)) for one in ratios]


def compare(tab: str = "Maps", chosen: list[runs.Run] | None = None, **query: str) -> AppTest:
    """The Compare page as its address opens it."""
    app = AppTest.from_file(MAIN, default_timeout=180)
    app.session_state["choice"] = Choice(limit=10)
    app.run()
    app.query_params["runs"] = [run.name for run in chosen or []]
    app.query_params["compare-tab"] = tab
    for name, value in query.items():
        app.query_params[name] = value
    app.session_state["compare-tab"] = tab
    return go(app, "compare")


def test_models_stand_side_by_side(two: list[runs.Run]) -> None:
    app = compare(chosen=two)
    table = app.table[0].value
    assert list(table.columns) == ["dense", "run 1", "run 2"]
    assert (table.loc["Measured"] == ["", "before fine-tuning", "before fine-tuning"]).all()
    for run, column in zip(two, table.columns[1:], strict=True):
        report: Any = runs.report(run)
        assert table.loc["Parameters", column].startswith(f"{report.params_after:,} (-")
        assert table.loc["Top-1", column].startswith(f"{100 * report.top1_after:.1f}")
        low, high = 100 * report.top1_low_after, 100 * report.top1_high_after
        assert table.loc["Change of top-1", column] == wording.paired_points(report.top1_change)
        assert table.loc["95 % interval", column].startswith(f"{low:.1f} to {high:.1f}")
        assert table.loc["Agreement with dense", column].startswith(f"{100 * report.agreement:.1f}")
    assert "Latency per image, batch 1" not in table.index
    assert "run 2" in text(app) and not app.error
    app.number_input(key="compare-block").set_value(0).run()
    kept = OpenedRun(two[1]).plan
    assert kept is not None and len(kept.blocks[0].heads) == 2
    for head in range(3):
        app.number_input(key="compare-head").set_value(head).run()
        removed = [caption.value for caption in app.caption if caption.value.endswith(": removed")]
        gone = [f"Block 0, head {head}, **run 2**: removed"]
        assert removed == ([] if head in kept.blocks[0].heads else gone)
    app.segmented_control(key="compare-over").set_value("several").run()
    assert not app.exception and not app.error


def test_a_view_is_in_its_address(two: list[runs.Run]) -> None:
    app = compare("Predictions", chosen=two[:1], image="3")
    assert app.multiselect(key="compare-runs").value == [str(two[0].folder)]
    assert app.query_params["runs"] == two[0].name
    app = compare("Maps", chosen=two[:1], image="3")
    assert app.number_input(key="compare-image").value == 3
    app.button(key="compare-image-next").click().run()
    assert app.query_params["image"] == "4"
    assert not app.error and not app.exception


def test_which_flipped_images_are_seen_is_in_the_address(
    two: list[runs.Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compare_predictions, "PAGE", 1)
    some = Agreement(0.6, flips=(1, 3, 5, 7), lost=(1, 3, 5), gained=(7,))
    monkeypatch.setattr(ComparedModel, "agreement", lambda model, dense: some)
    app = compare("Predictions", chosen=two[:1])
    assert "which" not in app.query_params and "page" not in app.query_params
    app = compare("Predictions", chosen=two[:1], which="lost", page="2")
    assert app.segmented_control(key="flips-kind").value == "lost"
    assert (app.query_params["which"], app.query_params["page"]) == ("lost", "2")
    captions = [image.caption for element in app.get("image") for image in element.proto.imgs]
    assert [caption.split()[0] for caption in captions] == ["#3"]
    app.segmented_control(key="flips-kind").set_value("all").run()
    assert "which" not in app.query_params and "page" not in app.query_params
    app = compare("Predictions", chosen=two[:1], which="nothing", page="99")
    assert app.segmented_control(key="flips-kind").value == "all"
    assert app.query_params["page"] == "4"  # the last there is
    assert not app.error and not app.exception


def test_an_address_that_leads_nowhere_is_a_sentence(two: list[runs.Run]) -> None:
    app = AppTest.from_file(MAIN, default_timeout=180)
    app.run()
    app.query_params["runs"] = ["no-such-run", two[0].name]
    go(app, "compare")
    assert "neither a run folder nor a bundle" in app.error[0].value
    assert app.multiselect(key="compare-runs").value == [str(two[0].folder)]


@pytest.mark.parametrize("tab", ["Predictions", "Calibration", "Widths", "All runs", "Report"])
def test_every_tab_takes_several_models(tab: str, two: list[runs.Run]) -> None:
    app = compare(tab, chosen=two)
    assert not app.error and not app.exception
    if tab == "Predictions":
        for kind in ("lost", "gained"):
            app.segmented_control(key="flips-kind").set_value(kind).run()
        app.segmented_control(key="compare-flips-of").set_value("run 2").run()
        assert not app.error and not app.exception
    if tab == "Report":
        app.button(key="make-report").click().run()
        assert not app.error and not app.exception
        assert "MB" in app.get("download_button")[0].proto.label


def test_latency_is_measured_by_a_run_and_kept(two: list[runs.Run]) -> None:
    app = compare("Latency", chosen=two)
    app.multiselect(key="bench-batches").set_value([2]).run()
    app.button(key="measure-latency").click().run()
    (found,) = [run for run in runs.list_runs() if run.kind == "bench"]
    assert isinstance(found.job, BenchJob) and found.job.batches == (2,) and len(found.job.models) == 3
    assert list(app.table[1].value.index) == [f"{name}, batch 2" for name in ("dense", "run 1", "run 2")]
    again = compare("Latency", chosen=two[:1])  # a new session, and fewer models
    assert list(again.table[1].value.index) == ["dense, batch 2", "run 1, batch 2"]
    assert "×" in again.table[0].value.loc["Speed-up, batch 2", "run 1"]
    assert not again.error and not again.exception
    axis = compare("All runs", chosen=two)
    axis.segmented_control(key="compare-axis").set_value("speedup").run()
    assert "measured for 2 of 2 runs" in text(axis)


def test_devices_stand_side_by_side(two: list[runs.Run]) -> None:
    app = compare("Latency", chosen=two[:1])
    bundle = two[0].bundle
    assert isinstance(two[0].job, Job) and bundle is not None
    dense, small = architecture(two[0].job.model), architecture(str(bundle))
    files = [made_up(dense, price(mlp), [("small", small)], name=name) for mlp, name in ((1, "a"), (5, "b"))]
    given = [(f"{t.device}.json", t.to_json().encode(), "application/json") for t in files]
    app.file_uploader[0].set_value(given).run()
    assert not app.error and not app.exception
    shown = app.table[-1].value
    assert list(shown.columns) == ["a", "b"] and list(shown.index)[:2] == ["dense, batch 1", "run 1, batch 1"]
    assert (shown != "").all(axis=None)
    app.file_uploader[0].set_value([*given, ("bad.json", b"[]", "application/json")]).run()
    assert "bad.json must be an object" in app.error[0].value and not app.exception


def test_timings_of_the_release_before_have_no_interval(two: list[runs.Run]) -> None:
    app = compare("Latency", chosen=two)
    app.button(key="measure-latency").click().run()
    (found,) = [run for run in runs.list_runs() if run.kind == "bench"]
    data = json.loads((found.folder / TIMINGS).read_text())
    del data["each"], data["version"]
    (found.folder / TIMINGS).write_text(json.dumps(data))
    comparison._timings.clear()
    app = compare("Latency", chosen=two)
    assert not app.error and not app.exception
    assert "× (–), verdict unknown" in app.table[1].value.loc["run 1, batch 8", "Speed-up"]
    axis = compare("All runs", chosen=two)
    axis.segmented_control(key="compare-axis").set_value("speedup").run()
    assert not axis.error and not axis.exception


def test_damaged_timings_are_a_sentence(two: list[runs.Run]) -> None:
    app = compare("Latency", chosen=two[:1])
    app.button(key="measure-latency").click().run()
    (found,) = [run for run in runs.list_runs() if run.kind == "bench"]
    (found.folder / TIMINGS).write_text("{")
    app = compare("Latency", chosen=two[:1])
    assert list(app.table[0].value.columns) == ["dense", "run 1"] and not app.error and not app.exception
    assert "timings.json is not JSON" in app.table[-1].value.loc["Run 3: Latency of 2 models", "value"]


def test_a_bundle_of_no_run_is_measured_on_the_same_images(two: list[runs.Run], tmp_path: Path) -> None:
    assert two[0].bundle is not None
    lone = two[0].bundle.rename(tmp_path / "lone*bundle")
    app = compare(chosen=two[1:])
    app.text_input(key="compare-path").set_value(str(lone)).run()
    app.button(key="compare-open-button").click().run()
    assert not app.error and not app.exception
    table = app.table[0].value
    assert list(table.columns) == ["dense", "run 2", r"lone\*bundle"]
    by_hand = evaluate_on(two[1], lone)
    assert table.loc["Top-1", r"lone\*bundle"].startswith(f"{100 * by_hand:.1f}")
    for bad, message in (
        (str(tmp_path), "neither a run"),
        ("", "Enter the path"),
        (str(two[0].folder), "done"),
    ):
        app.text_input(key="compare-path").set_value(bad).run()
        app.button(key="compare-open-button").click().run()
        assert message in app.error[0].value, bad
    assert not app.exception


def evaluate_on(run: runs.Run, bundle: Path) -> float:
    """Top-1 of a bundle on the images of a run, image by image."""
    loaded = read_bundle(bundle)
    test = OpenedRun(run).open_tested(loaded)
    right = 0
    for i in range(len(test)):
        with torch.inference_mode():
            logits = loaded.model(loaded.preprocess(test.image(i))[None])
        right += int(logits.argmax()) == test.label(i)
    return right / len(test)


def test_runs_of_other_images_are_another_group(two: list[runs.Run], tiny_bundle: Path, photos: Path) -> None:
    other = carry_out(Job(str(tiny_bundle), str(photos), "l2", ratios=Ratios(mlp=0.25), limit=6))
    app = compare(chosen=two)
    groups = app.selectbox(key="compare-group")
    shown: Any = groups.value
    assert len(groups.options) == 2 and "12 images" in groups.options[shown]
    groups.set_value(1 - shown).run()
    assert app.multiselect(key="compare-runs").value == [str(other.folder)]
    assert not app.error and not app.exception


def test_a_new_run_joins_those_that_were_compared(
    two: list[runs.Run], tiny_bundle: Path, photos: Path
) -> None:
    app = compare(chosen=two)
    new = carry_out(Job(str(tiny_bundle), str(photos), "l2", ratios=Ratios(mlp=0.25), limit=12))
    session_runs.forget_listed()
    app.run()
    assert app.multiselect(key="compare-runs").value == [str(run.folder) for run in (new, *two)]
    app.multiselect(key="compare-runs").set_value([]).run()
    assert "Choose at least one model" in app.info[0].value and not app.table


def test_without_runs_it_says_what_to_do() -> None:
    app = compare()
    assert "Nothing has been pruned yet" in app.info[0].value and not app.table and not app.exception


def test_demo_scenes_are_scored_by_their_objects() -> None:
    app = pruned()
    app.session_state["compare-tab"] = "Objects"
    go(app, "compare")
    sizes = app.table[0].value.loc[["Weights, float32", "Weights, float16", "Stored in"]]
    assert [text.partition("\u00a0")[0] for text in sizes["dense"]] == ["10.9", "5.4", "float16"]
    assert sizes.loc["Stored in", "run 1"] == "float16"  # as the demo is stored
    assert not app.error and not app.exception
    run = OpenedRun(runs.list_runs()[0])
    scenes = run.open_tested(run.dense)
    for name, loaded in (("dense", run.dense), ("run 1", run.pruned)):
        found = object_scores(loaded, scenes, lambda *_: None, "")
        shown = app.table[1].value[name]
        assert shown["Rollout, mass on the object"].startswith(f"{100 * found.rollout.mass:.1f}")
        heads = [float(value) for row in found.heads.pointing for value in row]
        assert shown["Heads, pointing game, mean"].startswith(f"{100 * sum(heads) / len(heads):.1f}")
    assert "Over 10 scenes" in text(app)


def test_photos_have_no_objects(two: list[runs.Run]) -> None:
    app = compare(chosen=two[:1])
    assert [tab.label for tab in app.tabs] == [
        *("Predictions", "Maps", "Calibration", "Widths", "Latency", "All runs", "Report")
    ]


def test_the_runs_of_a_model_that_is_not_loaded_are_not_opened_unasked(two: list[runs.Run]) -> None:
    app = AppTest.from_file(MAIN, default_timeout=180)
    app.session_state["choice"] = Choice(limit=10)
    go(app.run(), "compare")
    assert "demo, which is loaded, has no finished run yet" in app.info[0].value and not app.table
    app.selectbox(key="compare-group").set_value(0).run()
    assert list(app.table[0].value.columns) == ["dense", "run 2"] and not app.error
    job = two[0].job
    assert isinstance(job, Job)
    app.session_state["choice"] = Choice(job.model, data=job.data, limit=12)
    app.run()
    assert app.multiselect(key="compare-runs").value == [str(two[1].folder)]
    assert "12 test images" in text(app) and not app.error and not app.exception


def test_photos_come_in_the_order_in_which_their_attention_changed(two: list[runs.Run]) -> None:
    app = compare("Maps", chosen=two[:1], order="changed")
    (caption,) = [one.value for one in app.caption if "lies elsewhere" in one.value]
    shares = [float(number) for number in re.findall(r"(\d+)\u00a0%", caption)]
    run = OpenedRun(two[0])
    images = run.open_tested(run.dense)
    expected = []
    for image in (images.image(i) for i in range(len(images))):
        maps = [
            rollout_maps(loaded.model, loaded.preprocess(image))[default_row(loaded.model.arch)]
            for loaded in (run.dense, run.pruned)
        ]
        expected.append(100 * float(share_moved(*maps)))
    assert shares == [round(one) for one in sorted(expected, reverse=True)[:10]]
    assert "12 of 12 test images" in caption and not app.error and not app.exception
    app.segmented_control(key="compare-view").set_value("beside").run()
    assert app.query_params["maps"] == "beside" and not app.error and not app.exception


def test_a_wipe_takes_pictures_of_one_size() -> None:
    one, other = Image.new("RGB", (30, 20), "red"), Image.new("RGBA", (30, 20), "#8a969030")
    sent = wipe.message(one, other, ("dense", "run 1"), "maps")
    assert (sent["width"], sent["height"], sent["names"]) == (30, 20, ["dense", "run 1"])
    assert str(sent["before"]).startswith("data:image/webp") and sent["before"] != sent["after"]
    with pytest.raises(ValueError, match="cannot lie over each other"):
        wipe.message(one, other.resize((20, 20)), ("", ""), "")


# ---- charts


def logits(seed: int) -> Any:
    generator = torch.Generator().manual_seed(seed)
    return evaluate(
        torch.nn.Identity(),
        [(3 * torch.randn(50, 4, generator=generator), torch.randint(0, 4, (50,), generator=generator))],
    )


def test_tokens_are_told_block_by_block_where_some_merge() -> None:
    tokens = TINY.num_tokens
    merging = with_merges(TINY, (2, 1))
    figure: Any = compare_charts.widths([("dense", TINY), ("small", merging)])
    assert [title.text for title in figure.layout.annotations][-2:] == ["Heads", "Input tokens"]
    assert [list(trace.y) for trace in figure.data][-2:] == [[tokens, tokens], [tokens, tokens - 2]]
    for drawn in (compare_charts.widths([("dense", TINY)]), charts.widths(TINY, TINY)):
        assert [title.text for title in drawn.layout.annotations][-1] == "Heads"
    assert list(charts.widths(TINY, merging).data[-1].y) == [tokens, tokens - 2]


def test_reliability_bars_are_the_bins() -> None:
    result = logits(0)
    bins = [bin for bin in reliability(result) if bin.images]
    figure: Any = compare_charts.calibration([("dense", 0.1, reliability(result))])
    (bars,) = [trace for trace in figure.data if trace.type == "bar"]
    assert list(bars.y) == [100 * bin.accuracy for bin in bins]
    assert sum(images for images, _ in bars.customdata) == 50
    bounds = [wilson(bin.right, bin.images) for bin in bins]
    for y, low, high, bound in zip(bars.y, bars.error_y.arrayminus, bars.error_y.array, bounds, strict=True):
        assert (y - low, y + high) == pytest.approx((100 * bound[0], 100 * bound[1]), abs=1e-9)


def test_pareto_bounds_are_the_interval_and_the_front_is_marked() -> None:
    one, other = logits(1), logits(2)
    two = replace(one, predictions=other.predictions, top1_low=0.05, top1_high=0.3)  # the same images
    trades = [Trade("dense", 1.0, one, 1.0, dense=True), Trade("run 1", 0.5, two, 2.0, 1.6, 2.5)]
    for by, cost in (("gmacs", 0.5), ("speedup", 0.5)):
        figure: Any = compare_charts.pareto(trades, trades[1:], {"run 1"}, by)
        front, dense, run, rings = figure.data
        assert rings.name == "compared above" and rings.marker.symbol == "circle-open"
        assert list(front.x) == [cost] == list(run.x) and list(dense.x) == [1.0]
        assert run.y[0] + run.error_y.array[0] == pytest.approx(100 * two.top1_high)
        assert run.y[0] - run.error_y.arrayminus[0] == pytest.approx(100 * two.top1_low)
        assert (dense.mode, run.mode) == ("markers", "markers+text")
        assert wording.paired_points(paired_change(one, two)) in run.hovertemplate
        assert "p = " not in dense.hovertemplate
        if by == "speedup":
            assert run.x[0] + run.error_x.array[0] == pytest.approx(1 / 1.6)
            assert run.x[0] - run.error_x.arrayminus[0] == pytest.approx(1 / 2.5)
        else:
            assert run.error_x.array is None


def test_bars_of_latency_name_the_speedup() -> None:
    timing = compared((2.0,) * 30, (2.5,) * 30)
    same = compared((2.5,) * 30, (2.5,) * 30)
    figure: Any = compare_charts.latency({8: [("dense", same), ("run 1", timing)]})
    dense, run = figure.data
    assert (dense.y[0], run.y[0]) == (2.5 / 8, 2 / 8)
    assert list(dense.customdata) == [""]
    assert list(run.customdata) == ["<br>1.25× (1.25 to 1.25), faster"]


def test_confusion_is_coloured_by_what_is_better() -> None:
    """More right and fewer mistakes are one colour, the numbers stay the change."""
    figure: Any = compare_charts.confusion_change([[2, -2], [1, -1]], ["a", "b"])
    heat = figure.data[0]
    assert [list(row) for row in heat.z] == [[2, 2], [-1, -1]] and (heat.zmin, heat.zmax) == (-2, 2)
    assert [list(row) for row in heat.text] == [["+2", "-2"], ["+1", "-1"]]
    assert [list(row) for row in heat.customdata] == [[2, -2], [1, -1]]


def test_preservation_has_a_cell_for_every_head() -> None:
    figure: Any = compare_charts.preserved([[0.5, float("nan")], [1.0, 0.25, 0.75]], (1, 2))
    gone, known = figure.data
    assert [list(cell) for cell in gone.customdata] == [[0, 1]]
    cells = {(block, head): value for block, head, value in known.customdata}
    assert cells == {(0, 0): 0.5, (1, 0): 1.0, (1, 1): 0.25, (1, 2): 0.75}
    assert list(known.marker.color) == list(cells.values())
