"""Every way of editing a JSON file to what it must not hold: field by field, type by type."""

from __future__ import annotations

import copy
import json
import math
import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
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
    keys = data if isinstance(data, dict) else sorted({0, len(data) - 1} - {-1})
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
    named: Callable[[str], str] = lambda name: name,
) -> int:
    """Make every edit of a file in turn: each is a sentence that names file and field; returns how many.

    `fine` are edits that the format allows, `name: what` with patterns in both, and that are read as well;
    `named` gives the name that stands in the sentence, where it is not the field's own. Raises what `read`
    raises, if that is anything but a ValueError.
    """
    before = file.read_bytes()
    data, count = json.loads(before), 0
    allowed = [re.compile(pattern) for pattern in (*fine, "version: missing")]
    unused = set(allowed)
    for edit in edits(data):
        file.write_text(json.dumps(edit.data), encoding="utf-8")
        sentence = _refusal(read)
        fits = [pattern for pattern in allowed if pattern.fullmatch(f"{edit.name}: {edit.what}")]
        unused -= set(fits)
        if fits:
            assert sentence is None, f"{edit.name}: {edit.what} is allowed: {sentence}"
            continue
        assert sentence is not None, f"{edit.name} was read as {edit.what}"
        name = named(edit.name)
        assert file.name in sentence and "\n" not in sentence, sentence
        assert re.search(rf"(?<![\w.\]]){re.escape(name)}(?![\w\[]|\.\w)", sentence), f"{edit}: {sentence}"
        count += 1
    assert not unused, unused
    file.write_bytes(before)
    read()
    return count


def _refusal(read: Callable[[], object]) -> str | None:
    try:
        read()
    except ValueError as error:
        return str(error)
    return None
