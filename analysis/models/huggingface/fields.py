"""Fields of other tools' JSON files, checked for their type; a field that is null counts as left out."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from analysis.formats import in_file, parse, read_text

MOST_BYTES = 2**24  # of a file


def read_object(file: Path) -> dict[str, Any]:
    """The JSON object in a file, without what is null.

    Raises:
        ValueError: it cannot be read, or holds something else.
    """
    content = read_text(file, MOST_BYTES)
    try:
        return as_object(content)
    except ValueError as error:
        raise in_file(file, error) from error


def as_object(content: str | bytes) -> dict[str, Any]:
    """The same from the content of a file.

    Raises:
        ValueError: it holds something else.
    """
    found = parse(content)
    if not isinstance(found, dict):
        raise ValueError(f"this must be a JSON object, got {reprlib.repr(found):.60}")
    return {name: value for name, value in found.items() if value is not None}


class Values:
    """The fields of a config, or the family's defaults where it leaves them out."""

    def __init__(self, said: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
        self.said, self.defaults = said, defaults

    def whole(self, name: str) -> int:
        return whole(self.said, name, self.defaults[name], 2**31)

    def number(self, name: str) -> float:
        return number(self.said, name, self.defaults[name])

    def pair(self, name: str) -> tuple[int, int]:
        """A size: one number for both sides, or rows and columns."""
        found = self.said.get(name, self.defaults[name])
        sides = found if isinstance(found, list) else [found, found]
        if len(sides) != 2 or not all(type(side) is int and side > 0 for side in sides):
            raise ValueError(
                f"`{name}` must be one or two positive whole numbers, got {reprlib.repr(found):.60}"
            )
        return sides[0], sides[1]


def whole(said: Mapping[str, Any], name: str, default: int, most: int, least: int = 1) -> int:
    found = said.get(name, default)
    if type(found) is not int or not least <= found <= most:
        raise ValueError(
            f"`{name}` must be a whole number from {least} to {most:,}, got {reprlib.repr(found):.60}"
        )
    return found


def number(said: Mapping[str, Any], name: str, default: float) -> float:
    found = said.get(name, default)
    if type(found) not in (int, float) or not 0 < found < 1e9:
        raise ValueError(f"`{name}` must be a positive number, got {reprlib.repr(found):.60}")
    return float(found)


def flag(said: Mapping[str, Any], name: str, default: bool) -> bool:
    found = said.get(name, default)
    if type(found) is not bool:
        raise ValueError(f"`{name}` must be true or false, got {reprlib.repr(found):.60}")
    return found


def text(said: Mapping[str, Any], name: str, default: str) -> str:
    found = said.get(name, default)
    if type(found) is not str:
        raise ValueError(f"`{name}` must be text, got {reprlib.repr(found):.60}")
    return found
