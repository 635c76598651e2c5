"""Fields for what a user says of a model that its files do not say: `Reading`."""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st

from analysis.models import Reading

_LABELS = "reading-labels"
_NUMBERS = {
    "image_size": ("Image size", "224, or rows and columns: 224, 320"),
    "num_classes": ("Number of classes", "As many as the weights have; 0 leaves the classifier out"),
    "mean": ("Mean", "Of red, green and blue: 0.485, 0.456, 0.406"),
    "std": ("Standard deviation", "Of red, green and blue: 0.229, 0.224, 0.225"),
    "crop_pct": ("Crop", "The share of the resized image that is seen, 0.1 to 1"),
}
_OF_STRUCTURE = ("image_size", "num_classes")


def fields(structure: bool, place: str = "") -> Callable[[], Reading]:
    """Draw the fields, which may all stay empty; what is returned reads them.

    `structure` is whether image size and number of classes can be chosen, which a bundle decides itself.
    `place` tells several such forms apart.

    Raises:
        ValueError: from what is returned, if a field cannot be read.
    """
    with st.popover("How to read the files", icon=":material/tune:", width="stretch"):
        st.caption("Empty fields are decided by the files.")
        st.text_area(
            "Class names",
            key=place + _LABELS,
            persist_state="session",
            help="One on each line, in the order of the model's outputs.",
        )
        shown = [name for name in _NUMBERS if structure or name not in _OF_STRUCTURE]
        for name in shown:
            title, help = _NUMBERS[name]
            st.text_input(title, key=place + _key(name), persist_state="session", help=help)
    return lambda: _read(shown, place)


def fill(reading: Reading, place: str = "") -> None:
    """Set the fields to what is said; those of which nothing is said stay as they are."""
    if reading.labels:
        st.session_state[place + _LABELS] = "\n".join(reading.labels)
    for name in _NUMBERS:
        said = getattr(reading, name)
        if said is not None:
            values = said if isinstance(said, tuple) else (said,)
            st.session_state[place + _key(name)] = ", ".join(f"{value:g}" for value in values)


def _key(name: str) -> str:
    return f"reading-{name}"


def _read(shown: list[str], place: str) -> Reading:
    said = {name: _numbers(name, place) for name in shown}
    size = said.get("image_size", ())
    if len(size) > 2:
        raise ValueError("Image size: enter one number, or rows and columns.")
    names = [line.strip() for line in str(st.session_state.get(place + _LABELS) or "").strip().splitlines()]
    classes, crop = (_one(name, said.get(name, ())) for name in ("num_classes", "crop_pct"))
    return Reading(
        image_size=(_whole(size[0]), _whole(size[-1])) if size else None,
        num_classes=None if classes is None else _whole(classes),
        labels=tuple(names),
        mean=said["mean"] or None,
        std=said["std"] or None,
        crop_pct=crop,
    )


def _numbers(name: str, place: str) -> tuple[float, ...]:
    text = str(st.session_state.get(place + _key(name)) or "")
    try:
        return tuple(float(word) for word in text.split(",") if word.strip())
    except ValueError as error:
        raise ValueError(f"{_NUMBERS[name][0]}: enter numbers with commas between them.") from error


def _one(name: str, values: tuple[float, ...]) -> float | None:
    if len(values) > 1:
        raise ValueError(f"{_NUMBERS[name][0]}: enter one number.")
    return values[0] if values else None


def _whole(value: float) -> int:
    if not value.is_integer():
        raise ValueError(f"Image size and number of classes are whole numbers, not {value:g}.")
    return int(value)
