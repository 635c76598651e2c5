"""JSON files with other values, types, names and depths than the project writes, or with damaged text."""

from __future__ import annotations

import copy
import json
import math
from typing import Any

from hypothesis import strategies as st

from tests.fuzz.cases import Content
from tests.fuzz.strategies.raw_bytes import altered
from tests.fuzz.strategies.texts import NAMES
from tests.support.edits import places


def _nested(depth: int, inner: Any = 0) -> Any:
    for _ in range(depth):
        inner = [inner]
    return inner


VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 3, 7, 1000, 65_537, 2**31, 2**53 + 1, 2**63, -(2**63), 10**400),
    *(0.5, -0.0, 1e-320, 1e308, -1e308, math.nan, math.inf, "", "0", "x", "\ud800", "x" * 5000, *NAMES[:12]),
    *(
        [],
        {},
        [[]],
        [None],
        [0],
        [0, 0],
        [1, 2],
        [0.5] * 3,
        ["x"],
        [0] * 2000,
        {"x": 1},
        {"": {}},
        [{"a": []}],
    ),
    *(_nested(70), _nested(200), {"version": 99}, [True], "0.1", "1e5", [[0, 0], [0, 0]], [["x", "y"]]),
)
# what parsers may choke on, in place of a value
TEXTS = (
    "[" * 100_000,
    '{"a":' * 50_000,
    "NaN",
    "-Infinity",
    "1" * 6000,
    "1e999999",
    "0x1",
    "'x'",
    '"\\ud800"',
)
_MARK = "a mark that stands for a text"
values = st.sampled_from(VALUES).map(copy.deepcopy)  # what is drawn may be edited


@st.composite
def edited(draw: st.DrawFn, data: Any) -> Any:
    """Data with one to three values changed, left out, doubled or added."""
    data = copy.deepcopy(data)
    for _ in range(draw(st.integers(1, 3))):
        everywhere = list(places(data)) if isinstance(data, dict | list) else []
        if not everywhere or draw(st.integers(0, 30)) == 0:
            return draw(values)
        path = draw(st.sampled_from(everywhere))
        holder = data
        for key in path[:-1]:
            holder = holder[key]
        _edit(draw, holder, path[-1])
    return data


def _edit(draw: st.DrawFn, holder: Any, key: Any) -> None:
    old = holder[key]
    way = draw(st.sampled_from(["value", "value", "value", "near", "near", "gone", "more", "swap"]))
    if way == "gone":
        del holder[key]
    elif way == "near" and type(old) in (int, float) and abs(old) < 2**53:
        holder[key] = draw(
            st.sampled_from([old + 1, old - 1, -old, old * 2, old * 1000, old / 3, float(old)])
        )
    elif way == "near" and isinstance(old, list):
        holder[key] = draw(st.sampled_from([old[1:], old * 2, old[:1] * 500, [old], list(reversed(old))]))
    elif way == "near" and isinstance(old, str):
        holder[key] = draw(st.sampled_from([old[1:], old + "x", old.upper(), old + "\n"]))
    elif way == "more" and isinstance(old, dict):
        old[draw(st.sampled_from([*NAMES[:12], "version", "kind"]))] = draw(values)
    elif way == "swap":
        other = draw(st.sampled_from(list(holder) if isinstance(holder, dict) else range(len(holder))))
        holder[key], holder[other] = holder[other], old
    else:
        holder[key] = draw(values)


@st.composite
def json_file(draw: st.DrawFn, content: bytes) -> Content:
    """A JSON file, or one of JSON lines, edited or damaged."""
    if draw(st.integers(0, 9)) < 2:
        return draw(altered(content))
    lines = content.decode().splitlines(keepends=True) if content.count(b"\n{") else [content.decode()]
    number = draw(st.integers(0, len(lines) - 1))
    data = json.loads(lines[number])
    if draw(st.integers(0, 9)) == 0:
        holder = data if isinstance(data, dict) else {}
        holder[draw(st.sampled_from([*holder, "x"]))] = _MARK
        text = json.dumps(holder).replace(f'"{_MARK}"', draw(st.sampled_from(TEXTS)))
    else:
        text = json.dumps(draw(edited(data)))
    if draw(st.integers(0, 19)) == 0 and text.startswith("{"):  # a name twice
        text = '{"version": 1,' + text[1:]
    lines[number] = text + "\n" * lines[number].endswith("\n")
    return "".join(lines).encode(draw(st.sampled_from(["utf-8"] * 19 + ["utf-16"])), "surrogatepass")
