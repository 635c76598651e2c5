"""Which of the loaded images to go through: all, those of a class, or those that the model gets wrong."""

from __future__ import annotations

import random

import streamlit as st

from app import wording
from app.parts import feedback
from app.state import measured, memo, session

EVERY = "every class"


def choose(key: str) -> tuple[int, ...]:
    """Draw the choice; returns the numbers of the images. A button jumps to one by chance, kept in `key`."""
    images = session.images()
    with st.popover("Which", icon=":material/filter_list:", key="which"):
        labels = memo.remember(
            "labels there", session.choice(), lambda: sorted({images.label(i) for i in range(len(images))})
        )
        names = wording.told_apart(images.classes)
        offered = {EVERY: None} | {names[label]: label for label in labels}
        if st.session_state.get("which-class") not in (None, *offered):
            del st.session_state["which-class"]
        chosen = st.selectbox("Of the class", list(offered), key="which-class", persist_state="session")
        known = measured.baseline()
        wrong = st.toggle(
            "Only those that the model gets wrong",
            key="which-wrong",
            disabled=known is None,
            persist_state="session",
        )
        if known is None:
            feedback.link("model", "Measure the accuracy first", ":material/speed:")
        among = _among(offered[chosen], wrong and known is not None)
        st.caption(f"{wording.count(len(among))} of {wording.count(len(images))} images.")
        st.button(
            "A random one", icon=":material/casino:", key="which-random", on_click=_jump, args=(key, among)
        )
    return among


def _jump(key: str, among: tuple[int, ...]) -> None:
    if among:
        st.session_state[key] = random.choice(among)


def _among(label: int | None, wrong: bool) -> tuple[int, ...]:
    """Numbers of the images of a class, or of all; `wrong` ones are known of the test images alone."""

    def find() -> tuple[int, ...]:
        images = session.images()
        missed = _missed() if wrong else None
        return tuple(
            i
            for i, item in enumerate(images.indices)
            if (label is None or images.label(i) == label) and (missed is None or item in missed)
        )

    return memo.remember("images among", (session.choice(), label, wrong), find, keep=8)


def _missed() -> set[int]:
    """The images, by their places in the source, that the loaded model takes for another class."""
    found = measured.baseline()
    if found is None:
        return set()
    outcomes = zip(session.test_images().indices, found.predictions, found.labels, strict=True)
    return {item for item, predicted, label in outcomes if predicted != label}
