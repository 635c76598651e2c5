"""The first page: the demo in one click, and a model of one's own from dropped files."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from streamlit.testing.v1 import AppTest

from analysis.models import Reading, fitting_names
from analysis.models.candidates import Candidate
from analysis.models.recognize import _names_of
from analysis.models.timm_source import skeleton
from app.state import uploads
from app.state.session import Choice
from app.state.viewed_image import ViewedImage
from app.views.start import recent
from pruning.cut.ratios import Ratios
from pruning.jobs.prune_job import Job
from tests.support.app import MAIN, carry_out, elements, photo, start, text
from tests.support.models import dinov3_names


def fresh() -> AppTest:
    app = AppTest.from_file(MAIN, default_timeout=180)
    app.run()
    assert not app.exception and not app.error
    return app


def zipped(folder: Path, inside: str = "") -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, f"{inside}{file.relative_to(folder)}")
    return packed.getvalue()


def drop(app: AppTest, key: str, *files: tuple[str, bytes]) -> AppTest:
    given = [(name, content, "application/octet-stream") for name, content in files]
    return app.file_uploader(key=key).set_value(given).run()


def facts(app: AppTest) -> str:
    return " ".join(str(one.proto.body) for one in elements(app, "html"))


def test_it_opens_when_nothing_is_chosen_and_the_demo_is_one_click_away() -> None:
    app = fresh()
    assert "Make a Vision Transformer smaller" in text(app) and "choice" not in dict(app.query_params)
    app.button(key="demo-shrink").click().run()
    assert not app.exception and "How much smaller?" in text(app)
    assert app.session_state["choice"] == Choice()


def test_an_address_that_asks_for_a_model_leads_past_it(tiny_bundle: Path) -> None:
    app = AppTest.from_file(MAIN, default_timeout=180)
    app.query_params["model"] = str(tiny_bundle)
    app.run()
    assert not app.exception and not app.error and "**tiny**" in text(app) and "Cost by block" in text(app)
    assert app.query_params["data"] == "none"  # the demo scenes, which it does not know


def test_a_zip_of_a_bundle_and_one_of_images_are_recognised_and_loaded(
    tiny_bundle: Path, photos: Path
) -> None:
    app = drop(fresh(), "start-model", ("own.zip", zipped(tiny_bundle, "own/")))
    assert "2 blocks × 3 heads" in facts(app) and "cat, dog, emu" in facts(app)
    with pytest.raises(KeyError):
        app.button(key="own-shrink")  # there is nothing to prune on
    drop(app, "start-images", ("photos.zip", zipped(photos)))
    assert "12 to test on, 12 others" in facts(app)
    app.button(key="own-shrink").click().run()
    assert not app.exception and not app.error and "How much smaller?" in text(app)
    chosen = app.session_state["choice"]
    assert Path(chosen.model).is_dir() and Path(chosen.model).name == "own"
    assert Path(str(chosen.data)).name == "photos.zip"


def test_photos_dropped_beside_a_model_are_looked_at(tiny_bundle: Path) -> None:
    app = drop(fresh(), "start-model", ("own.zip", zipped(tiny_bundle)))
    mine = [photo(f"{colour}.png", colour)[:2] for colour in ("red", "blue")]
    drop(app, "start-images", ("no.jpg", b"no photo"), *mine)
    assert "2 photos to look at" in facts(app) and "no.jpg" in app.error[0].value
    app.button(key="own-look").click().run()
    assert not app.exception and app.segmented_control(key="image-from").value == "photo"
    kept = app.session_state["own photos"].values()
    assert [one.name for one in kept if isinstance(one, ViewedImage)] == ["red.png", "blue.png"]


def test_the_files_of_a_folder_are_taken_as_they_are(tiny_bundle: Path) -> None:
    files = [(file.name, file.read_bytes()) for file in tiny_bundle.iterdir()]
    app = drop(fresh(), "start-model", *files)
    assert "2 blocks × 3 heads" in facts(app) and not app.error
    app.button(key="own-look").click().run()
    assert not app.exception and app.session_state["choice"].data is None


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ([("a.zip", zipped(Path(__file__).parent))], "The zip holds no model"),
        ([("a.zip", b"PK no zip")], "The zip is damaged"),
        ([("a.pth", b"no weights")], "a.pth is not a PyTorch checkpoint"),
        ([("a.pth", b"1"), ("b.pth", b"2")], "These files are no model together"),
    ],
)
def test_what_is_no_model_is_one_sentence(files: list[tuple[str, bytes]], sentence: str) -> None:
    app = drop(fresh(), "start-model", *files)
    assert app.error[0].value.startswith(sentence) and not app.exception  # no folder of the server


def test_classes_without_names_are_asked_for_in_place(
    tiny_bundle: Path, photos: Path, tmp_path: Path
) -> None:
    nameless = tmp_path / "nameless"
    nameless.mkdir()
    for file in tiny_bundle.iterdir():
        content = file.read_text() if file.suffix == ".json" else ""
        if file.name == "preprocess.json":
            (nameless / file.name).write_text(content.replace('"cat"', "").replace('"dog"', ""))
        else:
            (nameless / file.name).write_bytes(file.read_bytes())
    text_of = (tiny_bundle / "preprocess.json").read_text()
    start_of = text_of.index('"labels"')
    end_of = text_of.index("]", start_of)
    (nameless / "preprocess.json").write_text(f'{text_of[:start_of]}"labels": [{text_of[end_of:]}')
    app = drop(fresh(), "start-model", ("own.zip", zipped(nameless)))
    drop(app, "start-images", ("photos.zip", zipped(photos)))
    assert "does not name its classes" in app.warning[0].value
    app.button(key="start-take-classes").click().run()
    app.button(key="own-shrink").click().run()
    assert not app.error and app.session_state["choice"].reading == Reading(labels=("cat", "dog", "emu"))


def test_weights_are_known_by_their_shapes(tmp_path: Path) -> None:
    for name, expected in (
        ("deit_tiny_patch16_224", ("deit_tiny_patch16_224", "vit_tiny_patch16_224")),
        ("deit_tiny_distilled_patch16_224", ("deit_tiny_distilled_patch16_224",)),
    ):
        file = tmp_path / f"{name}.safetensors"
        save_file(timm.create_model(name, num_classes=7).state_dict(), file)
        assert fitting_names(file) == expected
    assert fitting_names(file.rename(tmp_path / "vit.safetensors")) == ("deit_tiny_distilled_patch16_224",)
    save_file(timm.create_model("test_vit").state_dict(), tmp_path / "other.safetensors")
    assert fitting_names(tmp_path / "other.safetensors") == ()
    save_file({"conv1.weight": torch.zeros(2)}, tmp_path / "none.safetensors")
    with pytest.raises(ValueError, match="holds no Vision Transformer in a layout that is known"):
        fitting_names(tmp_path / "none.safetensors")


@pytest.mark.parametrize(
    "name",
    [
        *("vit_small_patch16_dinov3", "vit_small_plus_patch16_dinov3", "vit_large_patch16_dinov3_qkvb"),
        *("vit_base_patch16_siglip_224", "vit_so400m_patch14_siglip_224"),
    ],
)
def test_dinov3_and_siglip_are_known_by_their_shapes(name: str) -> None:
    state = skeleton(name, None, None).state_dict()
    assert tuple(_names_of(Candidate(state, "timm", "the top level"))) == (name,)


def test_dinov3_in_its_own_names_is_known_by_its_shapes() -> None:
    state = skeleton("vit_small_patch16_dinov3_qkvb", None, None).state_dict()
    own = dinov3_names(state)
    assert tuple(_names_of(Candidate(own, "timm", "the top level"))) == ("vit_small_patch16_dinov3_qkvb",)


def test_what_runs_began_with_is_offered_again(tiny_bundle: Path, photos: Path, tmp_path: Path) -> None:
    carry_out(Job(str(tiny_bundle), str(photos), "l1", ratios=Ratios(mlp=0.5), limit=6))
    carry_out(Job(str(tmp_path / "gone"), str(photos), "l1", ratios=Ratios(mlp=0.5), limit=6))
    app = start("")
    (offered,) = [button for button in app.button if str(button.key).startswith("recent-")]
    assert offered.label == f"tiny, {photos.name}"
    offered.click().run()
    assert app.session_state["choice"] == Choice(str(tiny_bundle), None, str(photos), 6)
    assert recent.title(Choice("vit", "/a/w.pth", None)) == "w.pth"


def test_a_folder_of_a_model_is_kept_by_its_content(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamlit.session_state", {})

    class File(io.BytesIO):
        name, size = "config.json", 2

    first, again, other = (uploads.save_folder([File(b), File(b)], "weights") for b in (b"{}", b"{}", b"[]"))
    assert first == again != other
