"""The preview of merging on a photo, for a dense model."""

from __future__ import annotations

from streamlit.testing.v1 import AppTest


def page() -> None:
    import streamlit as st
    from PIL import Image

    from analysis.models.load import load
    from app.parts import feedback, merged_patches
    from app.state.viewed_image import ViewedImage

    photo = ViewedImage("grey.png", Image.effect_noise((64, 64), 60).convert("RGB"), None, "grey")
    with feedback.sentences():
        merged_patches.show(load("demo"), photo, st.session_state["schedule"])


def test_a_schedule_is_drawn_on_a_photo_and_the_model_stays_dense() -> None:
    app = AppTest.from_function(page, default_timeout=60)
    app.session_state["schedule"] = 8
    app.run()
    alts = [image.alt for element in app.get("image") for image in element.proto.imgs]
    assert alts == [
        "grey.png after the last block",
        "grey.png after each block, with merged patches in their mean colour",
    ]
    assert app.caption[0].value.endswith("After block 5, 24 tokens are left of 64 patches.")
    app.session_state["schedule"] = [0, 32, 0, 0, 0, 0]
    app.run()
    assert app.caption[0].value.endswith("After block 5, 32 tokens are left of 64 patches.")
    app.session_state["schedule"] = [60, 0, 0, 0, 0, 0]
    app.run()
    assert not app.exception and "at most half of its 64 patch tokens" in app.error[0].value
