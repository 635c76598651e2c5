"""Options as dataclasses whose fields carry their range and a help text.

The app draws widgets from the fields and the command line parses values by them, so a new option is one
new field. The type of a field is that of its default: int, float, bool, or str with a list of choices.
"""

from __future__ import annotations

from dataclasses import Field, asdict, dataclass, field, fields, replace
from typing import Any, Self

Value = int | float | bool | str


@dataclass(frozen=True)
class Options:
    """Base class of all options.

    Raises:
        ValueError: a value has the wrong type, is out of range, or is not one of the choices.
    """

    def __post_init__(self) -> None:
        for option in fields(self):
            _require(option, getattr(self, option.name))

    def changed(self) -> tuple[tuple[str, Value], ...]:
        """Names and values of the options that differ from their defaults."""
        defaults = {option.name: option.default for option in fields(self)}
        return tuple((name, value) for name, value in asdict(self).items() if value != defaults[name])

    @property
    def calibration_images(self) -> int | None:
        """Number of calibration images to use; None: all available."""
        return None

    @property
    def trains(self) -> bool:
        """Whether the method trains on training images."""
        return False

    @property
    def removes(self) -> float:
        """Share of all parameters that these options remove even if all ratios are 0."""
        return 0.0

    def quick(self, images: int) -> Self:
        """The same options with at most `images` calibration images and no training, for a quick estimate."""
        return self


class ImageOptions(Options):
    """Base class of options with a field `images`, the number of calibration images."""

    images: int

    @property
    def calibration_images(self) -> int | None:
        """The value of the field `images`."""
        return self.images

    def quick(self, images: int) -> Self:
        """The same options with at most `images` images."""
        fewer: dict[str, Any] = {"images": min(self.images, images)}
        return replace(self, **fewer)


def option_field(default: float, low: float, high: float, help: str) -> Any:
    """An option from `low` to `high`: an integer, or any number if the default is a float."""
    return field(default=default, metadata={"low": low, "high": high, "help": help})


def switch_field(default: bool, help: str) -> Any:
    """An option that is on or off."""
    return field(default=default, metadata={"help": help})


def choice_field(default: str, choices: tuple[str, ...], help: str) -> Any:
    """An option that is one of `choices`."""
    return field(default=default, metadata={"choices": choices, "help": help})


def parse_option(kind: type[Options], name: str, text: str) -> Value:
    """Parse the text that the user entered for option `name`.

    Raises:
        ValueError: no such option, or a value of the wrong type.
    """
    known = {option.name: option for option in fields(kind)}
    if name not in known:
        raise ValueError(f"there is no option {name!r}; available are {', '.join(known) or 'none'}")
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
