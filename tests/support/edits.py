"""Every way of editing a JSON file to what it must not hold: field by field, type by type."""

from __future__ import annotations

import copy
import json
import math
import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

VALUES: dict[str, Any] = {
    "text": "x",
    "whole": 3,
    "number": 1.5,
    "switch": True,
    "nothing": None,
    "list": [],
    "object": {},
    "not finite": math.nan,
}
KINDS = {str: "text", int: "whole", float: "number", bool: "switch", type(None): "nothing"}
KINDS |= {list: "list", dict: "object"}


@dataclass(frozen=True)
class Edit:
    """A file with one change: field `name` is now `what`."""

    name: str
    what: str
    data: Any


def edits(data: Any) -> Iterator[Edit]:
    """Each field of each object, and the ends of each list: of another type, missing, or unknown."""
    for path in places(data):
        holder, here = _reach(data, path[:-1]), path[-1]
        now = KINDS[type(holder[here])]
        for what, value in VALUES.items():
            if what != now and (now, what) != ("number", "whole"):
                yield Edit(dotted(path), what, _changed(data, path, value))
        if isinstance(here, str):
            edited = copy.deepcopy(data)
            del _reach(edited, path[:-1])[here]
            yield Edit(dotted(path), "missing", edited)
    for path in [(), *(path for path in places(data) if isinstance(_reach(data, path), dict))]:
        edited = copy.deepcopy(data)
        _reach(edited, path)["mood"] = "good"
        yield Edit(dotted((*path, "mood")), "unknown", edited)


def places(data: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The path to everything inside; of a list to its first and last."""
    keys = data if isinstance(data, dict) else range(len(data))[:: max(len(data) - 1, 1)]
    for key in keys:
        yield (*path, key)
        if isinstance(data[key], dict | list):
            yield from places(data[key], (*path, key))


def dotted(path: tuple[str | int, ...]) -> str:
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path).removeprefix(".")


def _reach(data: Any, path: tuple[str | int, ...]) -> Any:
    for key in path:
        data = data[key]
    return data


def _changed(data: Any, path: tuple[str | int, ...], value: Any) -> Any:
    edited = copy.deepcopy(data)
    _reach(edited, path[:-1])[path[-1]] = value
    return edited


def require_refused(
    file: Path,
    read: Callable[[], object],
    fine: Collection[str] = (),
    depends: Collection[str] = (),
    named: Callable[[str], str] = lambda name: name,
) -> int:
    """Make every edit of a file in turn: each is a sentence that names file and field; returns how many.

    `fine` are edits that the format allows, `name: what` with patterns in both: they are read as well.
    Whether those in `depends` are depends on other fields. `named` gives the name that stands in the
    sentence where it is not the field's own, or several with | between them. What `read` raises is raised,
    if it is anything but a ValueError.
    """
    before = file.read_bytes()
    data, count = json.loads(before), 0
    allowed = [re.compile(pattern) for pattern in (*fine, "version: missing")]
    for edit in edits(data):
        file.write_text(json.dumps(edit.data), encoding="utf-8")
        sentence = _refusal(read)
        said = f"{edit.name}: {edit.what}"
        if any(re.fullmatch(pattern, said) for pattern in depends):
            continue
        if any(pattern.fullmatch(said) for pattern in allowed):
            assert sentence is None, f"{said} is allowed: {sentence}"
            continue
        assert sentence is not None, f"{edit.name} was read as {edit.what}"
        assert file.name in sentence and "\n" not in sentence, sentence
        assert any(_stands_in(name, sentence) for name in named(edit.name).split("|")), f"{edit}: {sentence}"
        count += 1
    file.write_bytes(before)
    read()
    return count


def taken(kind: type, place: str = "", needed: Collection[str] = ()) -> list[str]:
    """Edits that a dataclass takes: a field that has a default is missing, one that may be null is that."""
    fine = []
    for field in fields(kind):
        name, annotation = re.escape(place + field.name), str(field.type)
        if field.name not in needed and (field.default, field.default_factory) != (MISSING, MISSING):
            fine.append(f"{name}: missing")
        if annotation.endswith("| None"):
            types = {
                "str": "text",
                "int": "whole",
                "float": "whole|number",
                "tuple[tuple[str,": "list",
                "tuple[float,": "list",
            }
            fine.append(f"{name}: (nothing|{types.get(annotation.split()[0], 'nothing')})")
    return fine


def _stands_in(name: str, sentence: str) -> bool:
    """Whether a sentence has this very name, not one that it is a part of."""
    return re.search(rf"(?<![\w.\]]){re.escape(name)}(?![\w\[]|\.\w)", sentence) is not None


def _refusal(read: Callable[[], object]) -> str | None:
    try:
        read()
    except ValueError as error:
        return str(error)
    return None
