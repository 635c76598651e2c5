"""The bases of all that is kept as JSON: `Stored` for a format, `Checked` for fields inside one."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, ClassVar, Self, get_args, get_type_hints

import msgspec

from analysis.formats.text import MOST_BYTES, dump, in_file, parse, read_text
from analysis.formats.typed import content, plain, require_usual, typed


class Checked:
    """Base of frozen dataclasses whose fields hold what their annotations say, however they are made.

    A list becomes the tuple that is asked for, so that the whole stays hashable.

    Raises:
        ValueError: a value of another type, naming the field.
    """

    def __post_init__(self) -> None:
        for name, kind, plain_types in _annotations(type(self)):  # type: ignore[arg-type]  # a type has a hash
            given = getattr(self, name)
            if type(given) in plain_types:
                if type(given) is int:
                    require_usual(given, name)
                continue
            try:
                value = msgspec.convert(given, kind, strict=True)
            except msgspec.ValidationError:
                value = typed(_usual(given), kind, name)
            object.__setattr__(self, name, value)


class Stored(Checked):
    """Base of frozen dataclasses that are a JSON format: an object of their fields and a `version`.

    A file without a version is of the time before there was one, and is read like version 1. Whoever changes
    a format counts `VERSION` up, and lets `upgraded` bring what older files hold to the fields of today.
    """

    VERSION: ClassVar[int] = 1
    INDENT: ClassVar[int | None] = None
    ASCII: ClassVar[bool] = True  # names of files that are not UTF-8 can be written no other way
    MOST_BYTES: ClassVar[int] = MOST_BYTES
    NEEDED: ClassVar[tuple[str, ...]] = ()  # fields that a file must have, though code may leave them out

    def to_json(self) -> str:
        """Serialise; `from_json` gives an equal value back."""
        return dump({"version": self.VERSION} | plain(self), self.INDENT, self.ASCII)

    def to_data(self) -> dict[str, Any]:
        """What `to_json` writes, as dicts, lists, text and numbers."""
        data: dict[str, Any] = parse(self.to_json())
        return data

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Rebuild from `to_json`.

        Raises:
            ValueError: not JSON, a later version, or a field that is missing, unknown or of another type.
        """
        return cls.from_data(parse(text))

    @classmethod
    def from_data(cls, data: Any, place: str = "") -> Self:
        """Rebuild from `to_data`; `place` says where it lies inside a larger file.

        Raises:
            ValueError: as `from_json`.
        """
        fields = cls.upgraded(content(data, cls.VERSION, place, cls.NEEDED))
        found: Self = typed(fields, cls, place)
        return found

    @classmethod
    def upgraded(cls, data: dict[str, Any]) -> dict[str, Any]:
        """The fields of today, from those of a file that this or an earlier version wrote."""
        return data

    @classmethod
    def read(cls, file: Path) -> Self:
        """What lies in a file.

        Raises:
            ValueError: it cannot be read, or as `from_json`; the sentence names the file.
        """
        text = read_text(file, cls.MOST_BYTES)
        try:
            return cls.from_json(text)
        except ValueError as error:
            raise in_file(file, error) from error

    @classmethod
    def find(cls, file: Path) -> Self | None:
        """What lies in a file, None where there is no such file.

        Raises:
            ValueError: as `read`.
        """
        return cls.read(file) if os.path.lexists(file) else None


@cache
def _annotations(kind: type) -> tuple[tuple[str, Any, tuple[type, ...]], ...]:
    """Name and type of each field, and the classes whose instances are of that type without a closer look."""
    hints = get_type_hints(kind)
    return tuple((field.name, hints[field.name], _plain_types(hints[field.name])) for field in fields(kind))


def _plain_types(hint: Any) -> tuple[type, ...]:
    """The scalars and dataclasses among the members of a union, or of what is none."""
    members = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    return tuple(one for one in members if one in (bool, int, float, str, NoneType) or is_dataclass(one))


def _usual(value: Any) -> Any:
    """Python's own floats in place of numpy's, which are floats as well."""
    if isinstance(value, tuple):
        return tuple(map(_usual, value))
    if isinstance(value, Mapping):
        return {name: _usual(one) for name, one in value.items()}
    return float(value) if isinstance(value, float) else value
