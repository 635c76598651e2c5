"""Settings as data: dataclass fields that carry their range and a sentence.

Pages draw their widgets from them and the command line reads them, so that a new setting is one
field. The kind of a field is that of its default: int, float, bool, or str with listed choices.
"""

from __future__ import annotations

from dataclasses import Field, asdict, dataclass, field, fields, replace
from typing import Any, Self

Value = int | float | bool | str


@dataclass(frozen=True)
class Options:
    """Base of every group of settings.

    Raises:
        ValueError: a value of another kind, out of its range, or none of its choices.
    """

    def __post_init__(self) -> None:
        for option in fields(self):
            _require(option, getattr(self, option.name))

    def changed(self) -> tuple[tuple[str, Value], ...]:
        """Names and values that are not at their default."""
        defaults = {option.name: option.default for option in fields(self)}
        return tuple((name, value) for name, value in asdict(self).items() if value != defaults[name])

    @property
    def calibration_images(self) -> int | None:
        """How many calibration images these settings ask for; None: all there are."""
        return None

    @property
    def trains(self) -> bool:
        """Whether training images are learned from."""
        return False

    @property
    def removes(self) -> float:
        """The share of all parameters that these settings remove by themselves, without any ratio."""
        return 0.0

    def quick(self, images: int) -> Self:
        """The same on at most `images` calibration images and without training, for a rough try."""
        return self


class ImageOptions(Options):
    """Base of settings with a field `images`: how many calibration images are read."""

    images: int

    @property
    def calibration_images(self) -> int | None:
        """The field's value."""
        return self.images

    def quick(self, images: int) -> Self:
        """The same on fewer images."""
        fewer: dict[str, Any] = {"images": min(self.images, images)}
        return replace(self, **fewer)


def option_field(default: float, low: float, high: float, help: str) -> Any:
    """A whole number from `low` to `high`, or any number between if the default is a float."""
    return field(default=default, metadata={"low": low, "high": high, "help": help})


def switch_field(default: bool, help: str) -> Any:
    """On or off."""
    return field(default=default, metadata={"help": help})


def choice_field(default: str, choices: tuple[str, ...], help: str) -> Any:
    """One of a few words."""
    return field(default=default, metadata={"choices": choices, "help": help})


def parse_option(kind: type[Options], name: str, text: str) -> Value:
    """The value that a user wrote for option `name`.

    Raises:
        ValueError: no such option, or not a value of its kind.
    """
    known = {option.name: option for option in fields(kind)}
    if name not in known:
        raise ValueError(f"there is no option {name!r}; there are {', '.join(known) or 'none'}")
    default: Any = known[name].default
    if isinstance(default, str):
        return text
    if isinstance(default, bool):
        if text.lower() not in _SWITCH:
            raise ValueError(f"{name} must be on or off, got {text!r}")
        return _SWITCH[text.lower()]
    try:
        value: Value = type(default)(text)
        return value
    except ValueError as error:
        what = "a whole number" if isinstance(default, int) else "a number"
        raise ValueError(f"{name} must be {what}, got {text!r}") from error


_SWITCH = {
    "on": True,
    "true": True,
    "1": True,
    "yes": True,
    "off": False,
    "false": False,
    "0": False,
    "no": False,
}


def _require(option: Field[Any], value: object) -> None:
    name, default, limits = option.name, option.default, option.metadata
    if isinstance(default, str):
        if value not in limits["choices"]:
            raise ValueError(f"{name} must be one of {', '.join(limits['choices'])}, got {value!r}")
    elif isinstance(default, bool):
        if not isinstance(value, bool):
            raise ValueError(f"{name} must be on or off, got {value!r}")
    else:
        kind, words = (int, "a whole number") if isinstance(default, int) else (int | float, "a number")
        low, high = limits["low"], limits["high"]
        if isinstance(value, bool) or not isinstance(value, kind) or not low <= value <= high:
            raise ValueError(f"{name} must be {words} from {low} to {high}, got {value!r}")
