"""The first page: what this is, and two ways in."""

from __future__ import annotations

import streamlit as st

from analysis.measure import cost
from app import wording
from app.parts import feedback, pictures
from app.state import session
from app.state.session import Choice
from app.views.start import opening, own_model, recent

SCENES = 4  # of the demo
SIDE = 64  # pixels of each


def show() -> None:
    """Draw the page."""
    st.header("Make a Vision Transformer smaller", anchor=False)
    st.markdown(
        "PruneScope shows what the heads of a Vision Transformer look at, and cuts it down to the size that "
        "you ask for. You leave with a file that runs wherever PyTorch or ONNX does, and know what it "
        "costs in accuracy."
    )
    left, right = st.columns([2, 3], gap="medium")
    with left, st.container(border=True, key="start-demo"), feedback.sentences():
        _demo()
    with right, st.container(border=True, key="start-own"), feedback.sentences():
        own_model.show()
    with feedback.sentences():
        recent.show()


def _demo() -> None:
    st.subheader("Try the demo", anchor=False)
    loaded = session.model(Choice())
    scenes = session.demo_scenes(SCENES)
    with st.container(horizontal=True, gap="small", key="start-scenes"):
        for i in range(len(scenes)):
            name = scenes.classes[scenes.label(i)]
            shown = pictures.thumbnail(scenes.image(i), loaded.preprocess, SIDE)
            st.image(shown, width=SIDE, alt=f"a scene with a {name}")
    st.markdown(
        f"A small model of {wording.millions(cost(loaded.model.arch).params)} parameters that tells ten "
        "shapes apart, with its images. Nothing to download."
    )
    opening.buttons(Choice(), "demo")
