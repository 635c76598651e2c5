from __future__ import annotations

from dataclasses import dataclass

import pytest

from pruning.options import Options, Value, choice_field, option_field, parse_option, switch_field


@dataclass(frozen=True)
class Settings(Options):
    epochs: int = option_field(3, 1, 10, "Passes over the images.")
    rate: float = option_field(0.5, 0.0, 1.0, "Step.")
    ema: bool = switch_field(True, "Average.")
    form: str = choice_field("soft", ("soft", "hard"), "Loss.")


def test_only_what_differs_is_listed() -> None:
    assert Settings().changed() == ()
    assert Settings(epochs=4, ema=False).changed() == (("epochs", 4), ("ema", False))


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"epochs": 0}, "epochs must be a whole number from 1 to 10, got 0"),
        ({"epochs": 2.5}, "epochs must be a whole number"),
        ({"epochs": True}, "epochs must be a whole number"),
        ({"rate": 1.5}, r"rate must be a number from 0.0 to 1.0, got 1.5"),
        ({"rate": float("nan")}, "rate must be a number"),
        ({"ema": 1}, "ema must be on or off, got 1"),
        ({"form": "loud"}, "form must be one of soft, hard, got 'loud'"),
    ],
)
def test_bad_values_are_refused(values: dict[str, Value], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Settings(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("epochs", "4", 4),
        ("rate", "1e-3", 1e-3),
        ("rate", "1", 1.0),
        ("ema", "off", False),
        ("ema", "True", True),
        ("form", "hard", "hard"),
    ],
)
def test_written_values(name: str, text: str, value: Value) -> None:
    got = parse_option(Settings, name, text)
    assert got == value and type(got) is type(value)


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("depth", "1", "there is no option 'depth'; available are epochs, rate, ema, form"),
        ("epochs", "1.5", "epochs must be a whole number, got '1.5'"),
        ("rate", "fast", "rate must be a number, got 'fast'"),
        ("ema", "perhaps", "ema must be on or off, got 'perhaps'"),
    ],
)
def test_bad_words_are_refused(name: str, text: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        parse_option(Settings, name, text)
