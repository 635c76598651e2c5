"""The Heads page in its normal, empty and error states, and what it locks, without a browser."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from analysis.heads.graph import SIMILARITIES
from analysis.models.load import load
from analysis.vit import Architecture, BlockWidths, ViT
from app.state.session import Choice
from app.views.heads import graph, one_head
from pruning.bundle.write import write_bundle
from pruning.criteria.head_measures import HEAD_MEASURES, weights_id
from pruning.cut.head_locks import HeadLocks
from pruning.cut.ratios import Ratios
from pruning.jobs.heads import HeadsJob, open_reading
from pruning.jobs.prune_job import Job
from pruning.runs import folder as runs
from pruning.runs import launch
from pruning.runs.status import Status
from tests.support.app import MAIN, bundle, elements, go, newest_run, only_run, own_widths, photo, start, text

LABELLED = [measure.title for measure in HEAD_MEASURES.values() if measure.needs_labels]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A distilled bundle with registers and a different number of heads in each block."""
    arch = Architecture(
        image_size=(32, 48),
        patch_size=(16, 8),
        embed_dim=24,
        blocks=(BlockWidths(3, 8, 8, 16), BlockWidths(1, 4, 8, 16), BlockWidths(2, 8, 4, 16)),
        num_classes=3,
        scale=8**-0.5,
        distilled=True,
        registers=2,
    )
    return bundle(arch, tmp_path_factory.mktemp("models") / "small", seed=1)


@pytest.fixture
def choice(small: Path, photos: Path) -> Choice:
    return Choice(str(small), data=str(photos), limit=6)


def lock(app: AppTest, head: tuple[int, int], what: str) -> AppTest:
    app.number_input(key="heads-block").set_value(head[0]).run()
    app.number_input(key="heads-head").set_value(head[1]).run()
    widget = next(each for each in elements(app, "button_group") if each.label == "Lock for pruning")
    done: AppTest = widget.set_value(what).run()
    return done


# ---- normal


def test_a_quick_look_shows_all_that_needs_no_labels(choice: Choice) -> None:
    app = start("heads", choice)
    assert "A quick look at 8 images" in text(app)
    assert f"labels are needed: {', '.join(LABELLED)}" in text(app)
    values = app.table[0].value
    assert list(values.index) == [m.title for m in HEAD_MEASURES.values() if m.title not in LABELLED]
    assert app.number_input(key="heads-block").value == 1


def test_measuring_runs_beside_the_page_and_is_found_again(choice: Choice) -> None:
    app = start("heads", choice)
    app.number_input(key="heads-measured-on").set_value(4).run()
    app.button(key="measure-heads").click().run()
    run = only_run()
    assert run.state == "done" and run.job == HeadsJob(choice.model, str(choice.data), images=4)
    assert "Measured on 4 calibration images" in text(app)
    found, loaded = open_reading(run.folder), load(choice.model)
    again = start("heads", choice)  # another session
    assert "Measured on 4 calibration images" in text(again)
    again.selectbox(key="criterion").set_value("integrated").run()
    again.number_input(key="heads-block").set_value(2).run()
    values = again.table[0].value
    place = 3 + 1  # heads of the blocks before
    for name, measure in HEAD_MEASURES.items():
        assert float(values.loc[measure.title, "Value"].split()[0]) == pytest.approx(
            found.values[name][place], rel=6e-3, abs=1e-9
        )
    best = sorted(found.importance("ablation"), reverse=True).index(found.importance("ablation")[place]) + 1
    assert values.loc["Ablation", "Rank"] == str(best) and values.loc["Entropy", "Rank"] == "–"
    assert found.model != weights_id(load("demo").model) and found.counts == tuple(
        widths.heads for widths in loaded.model.arch.blocks
    )
    other = start("heads", replace(choice, model="demo", data="demo"))
    assert "A quick look" in text(other)


def test_another_models_weights_under_the_same_name_are_not_taken_for_it(
    choice: Choice, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = start("heads", choice)
    app.number_input(key="heads-measured-on").set_value(2).run()
    app.button(key="measure-heads").click().run()
    file = only_run().folder / "heads.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"model": "another"}))
    assert "A quick look" in text(start("heads", choice))
    file.write_text("{}")
    app = start("heads", choice)
    assert "A quick look" in text(app) and not app.error
    assert "heads.json: `counts` is missing" in app.table[-1].value.to_string().replace("\\", "")


def test_a_run_at_work_is_shown_with_its_progress(choice: Choice, tmp_path: Path) -> None:
    folder, lock = launch._create(HeadsJob(choice.model, str(choice.data)), runs.runs_root(), 1)
    status = replace(Status.from_json((folder / "status.json").read_text()), state="running", what="Ablation")
    (folder / "status.json").write_text(replace(status, share=0.25).to_json())
    with lock:
        app = start("heads", choice)
        assert any("Ablation 25%" in each.text for each in app.get("progress"))
        assert app.button(key="heads-panel-cancel") and "A quick look" in text(app)


def test_similar_heads_lead_on_and_the_graph_follows_its_options(choice: Choice) -> None:
    app = start("heads", choice)
    before = app.number_input(key="heads-block").value, app.number_input(key="heads-head").value
    app.button(key="neighbour-0").click().run()
    after = app.number_input(key="heads-block").value, app.number_input(key="heads-head").value
    assert after != before and f"Block {after[0]}, head {after[1]}" in text(app)
    app.selectbox(key="similarity").set_value("predictability").run()
    assert "says more than the degree does" in text(app)
    scope = next(each for each in elements(app, "button_group") if each.label == "Heads of")
    scope.set_value("block").run()
    assert not app.exception
    slider = next(each for each in app.slider if each.label == "Threshold")
    slider.set_value(1.0).run()
    assert "0 pairs are joined" in text(app)


def test_what_if_a_head_were_gone(choice: Choice) -> None:
    app = start("heads", choice)
    app.button(key="head-what-if").click().run()
    assert "Top-1 is **" in text(app) and "of the predictions stay the same" in text(app)
    assert not app.exception


def without(choice: Choice, head: tuple[int, int], *, ask: bool) -> AppTest:
    app = start("heads", choice)
    app.number_input(key="heads-block").set_value(head[0]).run()
    app.number_input(key="heads-head").set_value(head[1]).run()
    return app.button(key="head-what-if").click().run() if ask else app


def test_where_it_takes_long_it_is_a_run_that_says_the_same(
    choice: Choice, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = without(choice, (0, 1), ask=True)
    (said,) = [each.value for each in app.markdown if "without it" in each.value]
    assert not runs.list_runs()
    monkeypatch.setattr(one_head, "AT_ONCE", 0.0)
    app = without(choice, (0, 1), ask=True)
    assert "Run 1: Trial without head 0.1" in text(app) and only_run().state == "done" and not app.exception
    assert said in text(without(choice, (0, 1), ask=False))  # another session
    assert "without it" not in text(without(choice, (0, 0), ask=False))
    app = without(choice, (1, 0), ask=True)  # the only one of its block, which no run can remove
    assert "without it" in text(app) and len(runs.list_runs()) == 1 and not app.exception


def test_the_address_brings_the_same_view_back(choice: Choice) -> None:
    app = start("heads", choice)
    app.number_input(key="heads-block").set_value(2).run()
    app.number_input(key="heads-head").set_value(1).run()
    app.selectbox(key="criterion").set_value("distance").run()
    lock(app, (0, 2), "remove")
    said = dict(app.query_params)
    assert (said["heads-block"], said["heads-head"], said["criterion"]) == ("0", "2", "distance")
    fresh = AppTest.from_file(MAIN, default_timeout=180)
    fresh.session_state["choice"] = choice
    fresh.run()
    for name, value in said.items():
        fresh.query_params[name] = value
    go(fresh, "heads")
    assert fresh.selectbox(key="criterion").value == "distance"
    assert fresh.number_input(key="heads-head").value == 2
    assert "Locked: 1 head to remove (0.2)" in text(fresh)


def test_every_similarity_is_named_and_explained() -> None:
    assert graph.SIMILARITY_TITLES.keys() == graph.SIMILARITY_NOTES.keys() == SIMILARITIES.keys()
    for kind in ("cosine", "attention"):
        assert (
            "symmetric" in graph.SIMILARITY_NOTES[kind]
            and "no more than the degree" in graph.SIMILARITY_NOTES[kind]
        )


# ---- locks


def test_the_prune_page_obeys_what_is_locked(choice: Choice) -> None:
    app = start("heads", choice)
    lock(app, (0, 1), "remove")
    lock(app, (2, 0), "keep")
    assert "Locked: 1 head to keep (2.0), 1 head to remove (0.1)" in text(app)
    go(app, "prune")
    assert "1 head to remove (0.1)" in text(app)
    own_widths(app, "l2")
    app.slider(key="ratio-qk").set_value(0).run()
    assert "--keep-heads 2.0 --remove-heads 0.1" in app.code[0].value
    app.button(key="try").click().run()
    assert "Rough estimate" in text(app)
    app.button(key="prune").click().run()
    run = newest_run()
    assert isinstance(run.job, Job) and run.job.locks == HeadLocks(((2, 0),), ((0, 1),))
    assert run.bundle is not None
    plan = json.loads((run.bundle / "plan.json").read_text())
    assert plan["blocks"][0]["heads"] == [0, 2]
    fresh = AppTest.from_file(MAIN, default_timeout=180)  # the same address after a refresh
    fresh.session_state["choice"] = choice
    fresh.run()
    for name, value in dict(app.query_params).items():
        fresh.query_params[name] = value
    assert "--remove-heads 0.1" in go(fresh, "prune").code[0].value
    app.button(key="clear-locks").click().run()
    assert "Locked" not in text(app).split("Run 1")[0] and "--remove-heads" not in app.code[0].value


def test_what_is_scored_does_not_depend_on_what_is_done_with_it() -> None:
    job = Job("demo", "demo", "l2", ratios=Ratios(heads=0.5), options=())
    alike = job.measured_alike()
    for change in (
        {"compensate": True},
        {"heads_by": "l1"},
        {"recovery": (("epochs", 3),)},
        {"ratios": Ratios(qk=0.25)},
        {"limit": 7},
        {"locks": HeadLocks(keep=((0, 0),))},
    ):
        assert replace(job, **change).measured_alike() == alike, change
    for change in ({"method": "l1"}, {"seed": 1}, {"locks": HeadLocks(remove=((0, 0),))}):
        assert replace(job, **change).measured_alike() != alike, change


def test_the_last_head_of_a_block_cannot_be_locked_to_go(choice: Choice) -> None:
    app = start("heads", choice)
    lock(app, (2, 0), "remove")
    app.number_input(key="heads-head").set_value(1).run()
    widget = next(each for each in elements(app, "button_group") if each.label == "Lock for pruning")
    assert list(widget.options) == ["Keep", "No lock"]
    assert "this one has to stay" in text(app)
    app.number_input(key="heads-block").set_value(1).run()  # it has one head
    assert "this one has to stay" in text(app)


def test_locks_belong_to_their_model(choice: Choice, tiny_bundle: Path) -> None:
    app = start("heads", choice)
    lock(app, (2, 1), "remove")
    app.session_state["choice"] = replace(choice, model=str(tiny_bundle))
    app.run()
    assert "No head is locked yet" in text(app)
    app.session_state["choice"] = choice
    app.run()
    assert "Locked: 1 head to remove (2.1)" in text(app)


# ---- empty, and errors


def test_without_images_it_asks_for_photos(choice: Choice) -> None:
    app = start("heads", replace(choice, data=None))
    assert "Upload photos" in app.info[0].value
    app.file_uploader[0].set_value([photo("a.png", "red"), photo("b.png", "blue")]).run()
    assert not app.exception and "your 2 photos" in text(app)
    assert "pick labelled images in the sidebar" in text(app)
    app.file_uploader[0].set_value([("bad.png", b"no picture", "image/png")]).run()
    assert "bad.png" in app.error[0].value


def test_a_model_without_classes_has_them_too(choice: Choice, tmp_path: Path) -> None:
    loaded = load(choice.model)
    model = ViT(replace(loaded.model.arch, num_classes=0)).eval()
    preprocess = replace(loaded.preprocess, labels=())
    headless = write_bundle(tmp_path / "headless", model, preprocess, name="headless", report={})
    app = start("heads", replace(choice, model=str(headless)))
    assert "Without a classifier the loss is how far the features move" in text(app)
    app.button(key="measure-heads").click().run()
    assert set(open_reading(only_run().folder).values) == set(HEAD_MEASURES)
    assert "labels are needed" not in text(app)
