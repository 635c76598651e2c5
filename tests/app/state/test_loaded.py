"""What is loaded stands in the address: a refresh and a shared view show the same model and images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from streamlit.testing.v1 import AppTest

from analysis.models import Named, Preprocess, Reading
from analysis.vit import ViT
from app import wording
from app.state import choice_address, session, uploads
from app.state.session import Choice
from pruning.bundle.write import write_bundle
from tests.fuzz.valid import write_transformers
from tests.support.app import MAIN, go, text
from tests.support.models import TINY
from tests.support.training import write_images


def opened(**address: str) -> AppTest:
    """The app in a new session, with this in the address."""
    app = AppTest.from_file(MAIN, default_timeout=180)
    for name, value in address.items():
        app.query_params[name] = value
    app.run()
    assert not app.exception
    return app


def told(app: AppTest) -> dict[str, str]:
    return {name: app.query_params[name] for name in choice_address._NAMES if name in app.query_params}


def test_the_field_of_images_takes_a_table(tiny_bundle: Path, photos: Path) -> None:
    files = sorted(file.relative_to(photos).as_posix() for file in photos.rglob("*.png"))
    rows = [f"{file},{file.partition('/')[0]}" for file in files]
    (photos / "labels.csv").write_text("\n".join(["file,label", *rows]))
    app = opened(model=str(tiny_bundle), data=str(photos / "labels.csv"))
    assert not app.warning and app.session_state["choice"].data == str(photos / "labels.csv")
    assert "labels.csv" in text(app)
    (photos / "labels.csv").write_text("file,label\n../1.png,cat")
    app.button("load").click().run()
    assert any("leads out of its folder" in error.value for error in app.error)


def test_a_model_loaded_by_the_form_is_the_same_after_a_refresh(tiny_bundle: Path, photos: Path) -> None:
    app = opened()
    assert told(app) == {}  # the demo goes without saying
    app.selectbox("model-source").select("bundle").run()
    app.text_input("bundle-folder").input(str(tiny_bundle))
    app.selectbox("image-source").select("path").run()
    app.text_input("data-path").input(str(photos))
    app.number_input("limit").set_value(12)
    app.button("load").click().run()
    assert not app.error
    expected = Choice(str(tiny_bundle.resolve()), None, str(photos), 12)
    assert app.session_state["choice"] == expected
    address = told(app)
    assert address == {"model": expected.model, "data": expected.data, "limit": "12"}
    assert told(go(app, "attention")) == address

    again = opened(**address)
    assert again.session_state["choice"] == expected and not again.warning
    assert again.selectbox("model-source").value == "bundle"
    assert again.text_input("bundle-folder").value == expected.model
    assert again.text_input("data-path").value == expected.data
    assert again.number_input("limit").value == 12
    assert told(again) == address
    again.button("load").click().run()  # the form as it stands loads the same
    assert again.session_state["choice"] == expected


def test_a_folder_of_transformers_is_loaded_as_a_bundle_is(tmp_path: Path) -> None:
    write_transformers(tmp_path / "checkpoint-500")
    app = opened()
    app.selectbox("model-source").select("bundle").run()
    app.text_input("bundle-folder").input(str(tmp_path / "checkpoint-500"))
    app.button("load").click().run()
    assert not app.error
    assert "Source: transformers ViTForImageClassification" in text(go(app, "model"))


def test_a_name_with_weights_fills_the_form_and_no_images_are_a_choice(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tiny_bundle: Path,
) -> None:
    weights = str(tmp_path / "own.safetensors")
    real = session._load

    def load(named: Named, stamp: object) -> Any:
        return real(Named(str(tiny_bundle)), None) if named.weights == weights else real(named, stamp)

    monkeypatch.setattr(session, "_load", load)
    app = opened(model="vit_tiny_patch16_384", weights=weights, data="none")
    assert app.session_state["choice"] == Choice("vit_tiny_patch16_384", weights, None)
    assert app.selectbox("model-name").value == "vit_tiny_patch16_384"  # none of the suggestions
    assert app.selectbox("weights-source").value == "path"
    assert app.text_input("weights-path").value == weights
    assert app.selectbox("image-source").value == "none"


def test_what_was_chosen_in_a_weights_file_stands_in_the_sidebar(tmp_path: Path) -> None:
    state = timm.create_model("test_vit", img_size=64, num_classes=7).state_dict()
    file = tmp_path / "own.ckpt"
    torch.save({"student": state, "teacher": dict(state)}, file)
    app = opened(model="test_vit", weights=str(file), data="none")
    assert not app.warning
    told = "of the weights in own.ckpt, those at teacher are used, not those at student"
    assert f"Note: {wording.plain(told)}." in text(app)


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ({"model": "/no/such/bundle"}, "there is no bundle folder at /no/such/bundle"),
        ({"data": "/no/such/images.zip"}, "/no/such/images.zip"),
        ({"limit": "many"}, "limit must be a whole number of at least 1, got 'many'"),
        ({"weights": "/tmp/w.pth"}, "has its own weights"),
    ],
)
def test_what_cannot_be_loaded_is_one_sentence_and_the_demo(address: dict[str, str], sentence: str) -> None:
    app = opened(**address)
    (warning,) = app.warning
    assert warning.value.startswith("What the address asks for cannot be loaded, so the demo is shown: ")
    assert sentence in warning.value.replace("\\", "")
    assert app.session_state["choice"] == Choice() and told(app) == {}
    assert app.selectbox("model-source").value == "demo"
    app.run()
    assert app.warning  # until something is loaded
    app.button("load").click().run()
    assert not app.warning


def test_uploads_are_not_in_the_address(
    tiny_bundle: Path,
    photos: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    state: dict[str, Any] = {}
    monkeypatch.setattr("streamlit.session_state", state)
    here = str(uploads.workspace() / "0123" / "photos.zip")
    plain = Choice(str(tiny_bundle), None, str(photos), 7)
    assert choice_address._without_uploads(plain) == plain
    assert choice_address._without_uploads(replace(plain, data=here)) == replace(plain, data=None)
    assert choice_address._without_uploads(replace(plain, weights=here)) == Choice(limit=7)
    for chosen, passing in ((plain, False), (replace(plain, data=here), True)):
        state["choice"] = chosen
        assert choice_address.has_uploads() is passing


def test_an_address_of_another_sessions_upload_is_one_sentence(tmp_path: Path) -> None:
    app = opened(data=str(tmp_path / "prunescope-gone" / "photos.zip"))
    assert "the demo is shown" in app.warning[0].value and "demo scenes" in text(app)


def test_classes_without_names_are_asked_for_and_stay_in_the_address(tiny: ViT, tmp_path: Path) -> None:
    folder, pictures = tmp_path / "nameless", write_images(tmp_path / "photos")
    for number in range(10):
        (pictures / str(number)).rename(pictures / f"kind {9 - number}")
    write_bundle(folder, tiny, Preprocess(TINY.image_size), name="tiny", report={"model": "tiny"})
    app = opened()
    app.selectbox("model-source").select("bundle").run()
    app.text_input("bundle-folder").input(str(folder))
    app.selectbox("image-source").select("path").run()
    app.text_input("data-path").input(str(pictures))
    app.button("load").click().run()
    assert "does not name its classes" in app.error[0].value and app.session_state["choice"] == Choice()
    app.button("take-classes").click().run()
    names = tuple(f"kind {number}" for number in range(10))
    chosen = app.session_state["choice"]
    assert not app.error and (chosen.data, chosen.reading) == (str(pictures), Reading(labels=names))
    assert app.text_area("reading-labels").value == "\n".join(names)

    again = opened(**told(app))
    assert again.session_state["choice"] == chosen and not again.warning
    again.text_input("reading-crop_pct").input("0.8, 0.9")
    again.button("load").click().run()
    assert "Crop: enter one number" in again.error[0].value
    again.text_input("reading-crop_pct").input("0.9").run()
    again.button("load").click().run()
    assert again.session_state["choice"].reading == Reading(labels=names, crop_pct=0.9)
    assert "cannot be loaded" in opened(reading="7").warning[0].value
