"""The Attention page in its normal, empty and error states, without a browser."""

from __future__ import annotations

import io
import re
from base64 import b64decode
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from streamlit.testing.v1 import AppTest

from analysis.attention.pictures import covered
from analysis.attention.trace import Trace
from analysis.data.batches import batches
from analysis.data.open import open_data
from analysis.measure.evaluate import evaluate
from analysis.models.load import LoadedModel, load
from analysis.vit import Architecture, BlockWidths
from app.parts import picker, pictures
from app.state import uploads, viewed_image
from app.state.session import Choice
from app.state.viewed_image import ViewedImage
from app.views.attention import charts as attention_charts
from app.views.attention import controls, page, queries
from app.views.attention.map_picture import MapPicture
from pruning.bundle.write import write_bundle
from tests.support.app import MAIN, elements, go, photo, start, text
from tests.support.models import SHORTER, VARIANTS, random_vit


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Small models of every kind, for images of 16 x 24 pixels that show cats, dogs and emus."""
    folder, found = tmp_path_factory.mktemp("kinds"), {}
    preprocess = replace(load("demo").preprocess, image_size=(16, 24), labels=("cat", "dog", "emu"))
    for name in ("distilled", "registers", "average pool", "uneven", "without halves"):
        model = random_vit(replace((VARIANTS | SHORTER)[name], num_classes=3))
        place = folder / name.replace(" ", "-")
        found[name] = write_bundle(place, model, preprocess, name=name, report={})
    return found


def alts(app: AppTest) -> list[str]:
    """Alternative texts of all pictures, in order."""
    return [image.alt for element in app.get("image") for image in element.proto.imgs]


# ---- normal


def test_choices_stay_when_the_page_is_left() -> None:
    app = start("attention")
    app.number_input(key="image").set_value(7).run()
    app.button(key="image-next").click().run()
    app.slider(key="block").set_value(4).run()
    app.selectbox(key="from").set_value("patch 2, 5").run()
    go(app, "prune")
    go(app, "attention")
    assert app.number_input(key="image").value == 8
    assert app.slider(key="block").value == 4
    assert "where patch 2, 5 looks in block 4, head 0" in alts(app)
    assert "who looks at patch 2, 5 in block 4, head 0" in alts(app)


def test_steps_go_around_the_ends() -> None:
    app = start("attention")
    app.button(key="image-previous").click().run()
    assert app.number_input(key="image").value == 1999


def visited(app: AppTest, steps: int) -> list[object]:
    """Numbers of the images that so many clicks on Next lead to."""
    return [app.button(key="image-next").click().run().number_input(key="image").value for _ in range(steps)]


def test_images_are_gone_through_by_class_and_by_what_the_model_gets_wrong(
    tiny_bundle: Path, photos: Path
) -> None:
    loaded = load(str(tiny_bundle))
    images = open_data(str(photos), loaded.preprocess, 3, "test")
    app = start("attention", Choice(str(tiny_bundle), data=str(photos), limit=9))
    assert app.toggle(key="which-wrong").disabled  # no accuracy is measured yet
    app.selectbox(key="which-class").set_value("dog").run()
    dogs = [i for i in range(len(images)) if images.classes[images.label(i)] == "dog"]
    assert visited(app, 3) == [*dogs[1:], dogs[0]][:3]
    app.button(key="which-random").click().run()
    assert app.number_input(key="image").value in dogs and not app.exception

    tested = images.sample(9)
    found = evaluate(loaded.model, batches(tested, loaded.preprocess))
    wrong = {
        images.indices.index(item)
        for item, one, other in zip(tested.indices, found.predictions, found.labels, strict=True)
        if one != other
    }
    assert 1 < len(wrong) < len(images)
    go(app, "model").button(key="measure-baseline").click().run()
    go(app, "attention").selectbox(key="which-class").set_value("every class").run()
    app.toggle(key="which-wrong").set_value(True).run()
    assert set(visited(app, len(wrong))) == wrong


def test_scenes_are_scored_against_their_object() -> None:
    app = start("attention")
    assert text(app).count("on the object (") == 2  # the head, and through all blocks
    app.segmented_control(key="objects").set_value("several").run()
    assert not app.exception and "by chance" in text(app)


def test_methods_bring_their_own_options() -> None:
    app = start("attention")
    assert "Rollout from the class token" in alts(app)
    app.selectbox(key="through").set_value("relevance").run()
    assert [box.key for box in app.selectbox if box.key in ("fuse", "class")] == ["class"]
    names = app.selectbox(key="class").options
    assert (
        len(names) == 11
        and names[0] == controls.LIKELIEST
        and set(names[1:]) == set(load("demo").preprocess.labels)
    )
    app.selectbox(key="class").set_value("ring").run()
    assert "Class relevance for ring, read at the class token" in alts(app)
    app.selectbox(key="through").set_value("gradient").run()
    app.slider(key="discard").set_value(50).run()
    assert "Gradient rollout for ring, read at the class token" in alts(app)
    assert not app.exception


@pytest.mark.parametrize(
    ("name", "tokens", "chosen", "read"),
    [
        ("distilled", ["class token", "distillation token"], "class token", "class and distillation token"),
        (
            "registers",
            ["class token", "register 1 token", "register 2 token", "register 3 token"],
            "class token",
            "class token",
        ),
        ("average pool", ["class token"], "mean over patches", "at all patches alike"),
        ("uneven", ["class token"], "class token", "class token"),
    ],
)
def test_every_kind_of_model_is_shown(
    name: str, tokens: list[str], chosen: str, read: str, bundles: dict[str, Path], photos: Path
) -> None:
    app = start("attention", Choice(str(bundles[name]), data=str(photos), limit=6))
    box = app.selectbox(key="from")
    patches = [f"patch {y}, {x}" for y in range(2) for x in range(3)]
    assert box.options == [*tokens, "mean over patches", *patches]
    assert box.value == chosen
    for token in (tokens[-1], "patch 1, 2"):
        app.selectbox(key="from").set_value(token).run()
        assert any(f"{token} looks in block 1" in alt for alt in alts(app))
    app.selectbox(key="through").set_value("relevance").run()
    assert any(read in alt for alt in alts(app))
    if name == "distilled":
        app.selectbox(key="classifier").set_value("distillation").run()
        assert any("read at the distillation token" in alt for alt in alts(app))
    app.segmented_control(key="view").set_value("several").run()
    assert not app.exception and not app.error


def test_a_model_that_merges_shows_what_has_become_one(bundles: dict[str, Path], photos: Path) -> None:
    app = start("attention", Choice(str(bundles["without halves"]), data=str(photos), limit=6))
    app.slider(key="block").set_value(1).run()
    assert any(alt.startswith("merged patches after block 1, ") for alt in alts(app))
    assert "After block 1, 4 tokens are left of 6 patches." in text(app)
    assert "Blocks 0, 3: no attention." in text(app)
    for through in ("relevance", "gradient"):
        app.selectbox(key="through").set_value(through).run()
    for block in (0, 3):
        app.slider(key="block").set_value(block).run()
        assert app.slider(key="head").disabled
        assert f"Block {block} has no attention" in app.info[0].value
    app.segmented_control(key="view").set_value("several").run()
    assert "Block 3 has no attention." in text(app)
    go(app, "heads")
    assert not app.exception and not app.error
    assert [app.number_input(key=f"heads-{name}").value for name in ("block", "head")] == [2, 0]
    app.number_input(key="heads-block").set_value(3).run()
    assert app.number_input(key="heads-block").value == 2


def test_without_any_attention_the_page_says_so(tmp_path: Path, photos: Path) -> None:
    model = random_vit(replace(VARIANTS["plain"], blocks=(BlockWidths(0, 0, 0, 9),), num_classes=3))
    preprocess = replace(load("demo").preprocess, image_size=(16, 24), labels=("cat", "dog", "emu"))
    write_bundle(tmp_path / "bare", model, preprocess, name="bare", report={})
    app = start("attention", Choice(str(tmp_path / "bare"), data=str(photos), limit=6))
    assert "No block of this model has attention" in app.info[0].value
    go(app, "heads")
    assert "No block of this model has attention" in app.info[0].value


def test_the_address_sets_the_view() -> None:
    app = AppTest.from_file(MAIN, default_timeout=180)
    app.session_state["choice"] = Choice(limit=20)
    app.run()
    view = {"image": "12", "block": "1", "head": "5", "from": "patch 3, 4", "through": "Class relevance"}
    for name, value in (view | {"class": "heart", "opacity": "100", "lines": "true"}).items():
        app.query_params[name] = value
    go(app, "attention")
    assert app.number_input(key="image").value == 12
    assert "where patch 3, 4 looks in block 1, head 5" in alts(app)
    assert "Class relevance for heart, read at the class token" in alts(app)
    assert app.slider(key="opacity").value == 100 and app.toggle(key="lines").value


def test_an_address_of_another_model_is_forgiven() -> None:
    app = AppTest.from_file(MAIN, default_timeout=180)
    app.session_state["choice"] = Choice(limit=20)
    app.run()
    for name, value in {"image": "9999", "block": "11", "from": "register 4 token", "class": "tench"}.items():
        app.query_params[name] = value
    app.query_params["through"] = "Class relevance"
    go(app, "attention")
    assert not app.exception and not app.error
    assert app.number_input(key="image").value == 0
    assert "where the class token looks in block 3, head 0" in alts(app)
    assert app.selectbox(key="class").value == controls.LIKELIEST


def test_a_gallery_shows_several_and_opens_one() -> None:
    app = start("attention")
    app.segmented_control(key="view").set_value("several").run()
    assert sum(alt.startswith("attention in") for alt in alts(app)) == 12
    app.segmented_control(key="gallery").set_value("flow").run()
    app.button(key="image-next").click().run()
    app.button(key="open-3").click().run()
    assert not app.exception
    assert app.number_input(key="image").value == 15
    assert app.segmented_control(key="view").value == "one"


def test_another_model_with_fewer_blocks_resets_what_is_out_of_range(tiny_bundle: Path, photos: Path) -> None:
    app = start("attention")
    app.slider(key="block").set_value(5).run()
    app.slider(key="head").set_value(5).run()
    app.selectbox(key="from").set_value("patch 7, 7").run()
    app.session_state["choice"] = Choice(str(tiny_bundle), data=str(photos), limit=6)
    app.run()
    assert not app.exception
    assert app.slider(key="block").value == 1
    assert app.slider(key="head").value == 1
    assert app.selectbox(key="from").value == "mean over patches"


def test_a_block_with_one_head_has_nothing_to_slide(tmp_path: Path, photos: Path) -> None:
    model = random_vit(replace(VARIANTS["plain"], blocks=(BlockWidths(1, 8, 8, 9),), num_classes=3))
    preprocess = replace(load("demo").preprocess, image_size=(16, 24), labels=("cat", "dog", "emu"))
    write_bundle(tmp_path / "one", model, preprocess, name="one", report={})
    app = start("attention", Choice(str(tmp_path / "one"), data=str(photos), limit=6))
    assert not app.exception and not app.error
    assert app.slider(key="head").disabled and app.slider(key="block").disabled


def test_a_picture_is_read_once_and_what_shows_it_asks_the_session_for_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[object] = []
    trace_of = viewed_image.trace_of

    def noted(image: ViewedImage, loaded: LoadedModel) -> Trace:
        asked.append(image.key)
        return trace_of(image, loaded)

    monkeypatch.setattr(viewed_image, "trace_of", noted)
    app = start("attention")
    assert asked == [("demo", 0)]
    app.selectbox(key="through").set_value("relevance").run()
    app.segmented_control(key="objects").set_value("several").run()
    assert asked == [("demo", 0)] * 3
    folder = Path(page.__file__).parent
    asking = [file.stem for file in folder.glob("*.py") if "session.model()" in file.read_text()]
    importing = [
        file.stem for file in folder.glob("*.py") if re.search(r"import .*\bsession\b", file.read_text())
    ]
    assert asking == importing == ["page"]


# ---- photos of one's own


def test_several_photos_are_paged_through_and_kept() -> None:
    app = start("attention", Choice(data=None))
    assert "Upload" in app.info[0].value
    elements(app, "file_uploader")[0].set_value(
        [photo("a.png", "red"), photo("b.png", "blue", (2000, 500))]
    ).run()
    app.session_state["photo-number"] = 1  # as a click on the second thumbnail
    app.run()
    assert "b.png" in text(app)
    kept: dict[str, ViewedImage] = app.session_state["own photos"]
    assert max(max(photo.image.size) for photo in kept.values()) == uploads.KEPT_SIDE
    go(app, "prune")
    go(app, "attention")
    assert "b.png" in text(app) or "a.png" in text(app)
    app.segmented_control(key="view").set_value("several").run()
    assert [alt for alt in alts(app) if alt.startswith("attention in")] == [
        "attention in a.png",
        "attention in b.png",
    ]


# ---- what is drawn


def test_a_photo_has_a_cell_for_every_patch() -> None:
    told = picker.message(picker.of_patches(Image.new("RGB", (240, 160)), 2, 3), (2, 1), "a photo")
    assert (told["width"], told["height"], told["gap"]) == (240, 160, 0)
    assert told["heights"] == [2, 2, 2] and told["chosen"] == (2, 1) and told["titles"] is None
    picture = Image.open(io.BytesIO(b64decode(str(told["source"]).partition(",")[2])))
    assert picture.size == (240, 160)


def test_a_film_has_a_cell_for_every_block() -> None:
    cells = picker.of_film(Image.new("RGB", (240, 160)), 8)  # two rows of four
    assert cells.heights == [2, 2, 2, 2] and picker.of_film(cells.picture, 11).heights == [2] * 5 + [1]


def test_maps_of_uneven_blocks_have_a_cell_each() -> None:
    plane = np.eye(4, dtype=np.float32)
    grid = pictures.grid(Image.new("RGB", (64, 64)), [[plane] * 3, [plane]], pictures.Style(), (400, 300))
    told = picker.message(picker.of_heads(grid), (1, 0), "maps")
    assert told["heights"] == [3, 1] and told["titles"] == ("block", "head")
    assert (
        told["width"] == 2 * grid.cell[0] + pictures.GAP == 2 * grid.cell[0] + grid.image.width % grid.cell[0]
    )
    assert told["gap"] == pictures.GAP


def test_a_folder_named_as_its_class_is_told_once(photos: Path, tiny_bundle: Path) -> None:
    app = start("attention", Choice(str(tiny_bundle), data=str(photos), limit=6))
    caption = next(part.value for part in app.caption if "0.png" in part.value)
    assert " · " not in caption and "/" in caption


def test_heads_on_the_object_are_told_in_percent() -> None:
    figure: Any = attention_charts.on_object([[0.25, 0.5], [1.0]], [[0.0, 1.0], [0.4]], (1, 0))
    assert list(figure.data[0].text) == ["25", "50", "100"]
    assert [list(place) for place in figure.data[0].customdata] == [[0, 0, 0], [0, 1, 100], [1, 0, 40]]


def test_lines_run_between_patches_and_nowhere_else() -> None:
    lined = np.asarray(pictures.patch_lines(Image.new("RGB", (60, 40)), 2, 3)).any(axis=2)
    expected = np.zeros((40, 60), dtype=bool)
    expected[20], expected[:, 20], expected[:, 40] = True, True, True
    np.testing.assert_array_equal(lined, expected)


def test_an_outline_lies_around_the_object_and_not_on_it() -> None:
    mask = np.zeros((10, 10), dtype=bool)
    mask[3:7, 2:8] = True
    grey = Image.new("RGB", (100, 100), (128, 128, 128))
    changed = (np.asarray(pictures.outline(grey, mask)) != 128).any(axis=2)
    assert changed.any() and not changed[33:67, 23:77].any()
    assert not changed[:25].any() and not changed[75:].any()


def test_files_are_8_bit_and_of_full_size() -> None:
    crop = Image.new("RGB", (24, 16), (200, 10, 10))
    drawn = MapPicture(crop, (2, 3), pictures.Style(smooth=False), lines=False, outline=None)
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    file = Image.open(io.BytesIO(pictures.png(drawn.draw(values, None))))
    assert (file.format, file.mode, file.size) == ("PNG", "RGB", (24 * 42, 16 * 42))
    assert len(file.getcolors() or []) == 6  # one for each patch


def test_only_what_patches_cover_is_shown() -> None:
    """A patch size that does not divide the image leaves a rim that no patch sees."""
    demo = load("demo")
    arch = replace(demo.model.arch, patch_size=(12, 20))
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    shown = covered(image, demo.preprocess, arch)
    assert shown.size == (60, 60)
    np.testing.assert_array_equal(np.asarray(shown), np.asarray(image)[:60, :60])


def test_queries_are_those_of_their_names() -> None:
    arch: Architecture = VARIANTS["registers"]
    prefix = ("class token", "register 1 token", "register 2 token", "register 3 token")
    for place, name in enumerate(prefix):
        query = queries.query(arch, name)
        assert torch.equal(query.weights, torch.eye(10)[place])
        assert (query.patch, query.phrase) == (None, f"the {name}")
    mean = queries.query(arch, "mean over patches")
    torch.testing.assert_close(mean.weights, torch.tensor([0.0] * 4 + [1 / 6] * 6))
    assert (mean.patch, mean.phrase) == (None, "the mean over patches")
    patch = queries.query(arch, "patch 1, 0")
    assert torch.equal(patch.weights, torch.eye(10)[4 + 3])
    assert (patch.patch, patch.phrase) == ((1, 0), "patch 1, 0")
    assert [queries.query(arch, name).name for name in queries.query_names(arch)] == [
        *prefix,
        "mean over patches",
        *(f"patch {y}, {x}" for y in range(2) for x in range(3)),
    ]
