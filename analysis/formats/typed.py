"""Parsed JSON held to types: strictly, with nothing unknown in it, and each flaw in one sentence."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

_MOST_INTEGER = 2**63
_WORDS = {
    "bool": "true or false",
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "list": "a list",
    "array": "a list",
    "dict": "an object",
    "object": "an object",
    "null": "null",
    "NoneType": "null",
}


def plain(value: object) -> Any:
    """Dataclasses, and what lies inside them, as dicts, lists, text and numbers."""
    return msgspec.to_builtins(value, str_keys=True, enc_hook=_as_text)


def _as_text(value: object) -> str:
    """Text of a class of its own, such as torch's version."""
    if isinstance(value, str):
        return str(value)
    raise TypeError(f"there is no JSON for a {type(value).__name__}")


def content(data: Any, version: int, place: str = "", needed: Sequence[str] = ()) -> dict[str, Any]:
    """The fields of a parsed JSON object of at most this version, without the version.

    Raises:
        ValueError: no object, a later version, a number that no field of ours holds, or a field that is
            needed and not there.
    """
    if not isinstance(data, dict):
        raise ValueError(f"{f'`{place}`' if place else 'this'} must be an object, got {_kind(data)}")
    found = data.get("version", 0)
    if type(found) is not int or found < 0:
        raise ValueError(f"`{_inside(place, 'version')}` must be a whole number, got {_kind(found)}")
    if found > version:
        raise ValueError(
            f"this was written by a later PruneScope (version {found}; this one reads up to {version}): "
            "update PruneScope"
        )
    for name in needed:
        if name not in data:
            raise ValueError(f"`{_inside(place, name)}` is missing")
    try:
        require_usual(data, place)
    except RecursionError as error:
        raise ValueError("this is nested too deeply") from error
    return {name: value for name, value in data.items() if name != "version"}


def typed(value: Any, kind: Any, place: str = "") -> Any:
    """Parsed JSON as a value of this type.

    Raises:
        ValueError: it is of another type, naming the field; its name begins with `place`.
    """
    try:
        made = msgspec.convert(value, kind, strict=True, str_keys=True)
    except msgspec.ValidationError as error:
        raise ValueError(_sentence(error, value, kind, place)) from error
    except UnicodeEncodeError as error:  # msgspec reads text where a whole number belongs
        where = f"`{place}`" if place else "this"
        raise ValueError(f"{where} holds text that is not UTF-8 where a number belongs") from error
    if type(value) in _HOLDERS:
        _require_known(value, made, place)
    return made


def require_usual(value: Any, place: str) -> None:
    """Refuse numbers that are not finite, or whole and beyond 64 bits, wherever they stand.

    Raises:
        ValueError: there is one.
    """
    if _are_usual((value,)):
        return
    if isinstance(value, dict | list):
        for name, one in value.items() if isinstance(value, dict) else enumerate(value):
            require_usual(one, _inside(place, name))
    elif isinstance(value, float):
        raise ValueError(f"`{place}` must be a finite number, got {value}")
    else:
        raise ValueError(
            f"`{place}` must be a number of at most 64 bits, got one of {len(str(value))} digits"
        )


def _are_usual(values: Iterable[Any]) -> bool:
    """Whether `require_usual` has nothing to say of any of these: quick, as that is the rule."""
    for value in values:
        kind = type(value)
        if kind is float:
            if not math.isfinite(value):
                return False
        elif kind is int:
            if not -_MOST_INTEGER < value < _MOST_INTEGER:
                return False
        elif (kind is dict and not _are_usual(value.values())) or (kind is list and not _are_usual(value)):
            return False
    return True


def _require_known(given: Any, made: Any, place: str) -> None:
    """Refuse a field that the dataclasses of `made`, which came of `given`, do not have."""
    parts: Iterator[tuple[Any, Any, Any]]
    if isinstance(given, list):
        if _HOLDERS.isdisjoint(map(type, given)):
            return
        parts = zip(range(len(given)), given, made, strict=False)  # a head that was named twice is there once
    elif isinstance(made, Mapping):
        parts = zip(given, given.values(), made.values(), strict=True)
    else:
        known = made.__dataclass_fields__
        for name in given:
            if name not in known:
                raise ValueError(f"there is no field `{_inside(place, name)}`")
        parts = zip(given, given.values(), [getattr(made, name) for name in given], strict=True)
    for name, one, value in parts:
        if type(one) in _HOLDERS:
            _require_known(one, value, _inside(place, name))


_HOLDERS = {dict, list}


# ---- sentences


def _sentence(error: msgspec.ValidationError, value: Any, kind: Any, place: str) -> str:
    """What msgspec says of a value, in our words."""
    said, _, where = str(error).partition(" - at ")
    path = where.removeprefix("`key` in ").strip("`").removeprefix("$")
    path = path.replace("[...]", f".{_bad_name(error, value, kind, path)}") if "[...]" in path else path
    field = place + path if place else path.removeprefix(".")
    if error.__cause__ is not None:  # what a dataclass says of its own values
        return f"`{field}`: {error.__cause__}" if field else str(error.__cause__)
    if found := re.fullmatch(r"Expected `(.*)`, got `(.*)`", said):
        subject = f"a name in `{field}`" if where.startswith("`key`") else f"`{field}`"
        return f"{subject} must be {_words(found[1])}, got {_words(found[2])}"
    if found := re.fullmatch(r"Expected `array` of length (\d+), got (\d+)", said):
        return f"`{field}` must be a list of {found[1]}, got {found[2]}"
    if found := re.fullmatch(r"Object missing required field `(.*)`", said):
        return f"`{_inside(field, found[1])}` is missing"
    return f"`{field}`: {said}"


def _bad_name(error: msgspec.ValidationError, value: Any, kind: Any, path: str) -> str:
    """The name in a mapping that an error is about, for which msgspec says `[...]`: found by trying each."""
    steps = re.findall(r"\.(\w+)|\[(\d+)\]", path.partition("[...]")[0])
    keys = [int(number) if number else name for name, number in steps]

    def alone(part: Any, keys: list[str | int], name: str) -> Any:
        if not keys:
            return {name: part[name]}
        copy = part.copy()
        copy[keys[0]] = alone(part[keys[0]], keys[1:], name)
        return copy

    mapping = value
    for key in keys:
        mapping = mapping[key]
    for name in mapping:
        try:
            msgspec.convert(alone(value, keys, name), kind, strict=True, str_keys=True)
        except msgspec.ValidationError as again:
            if str(again) == str(error):
                return str(name)
    return "..."


def _inside(place: str, name: str | int) -> str:
    if isinstance(name, int):
        return f"{place}[{name}]"
    return f"{place}.{name}" if place else name


def _words(kinds: str) -> str:
    """`float | null` as "a number or null"."""
    words = [_WORDS.get(kind, kind) for kind in kinds.split(" | ")]
    return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _kind(value: object) -> str:
    return _words(type(value).__name__)
