"""Formats that are made up here: what is read, what is refused, and in which words."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis import formats
from analysis.formats import Checked, NotJson, Stored


@dataclass(frozen=True)
class Part(Checked):
    share: float | tuple[float, ...] = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.share == 5:
            raise ValueError("a share must not be 5")

    @cached_property
    def doubled(self) -> Any:
        return self.share


@dataclass(frozen=True)
class Whole(Stored):
    VERSION = 2

    name: str
    align: int = 1
    part: Part = Part()
    options: tuple[tuple[str, int | float | bool | str], ...] = ()
    limit: int | None = None
    amount: int | float = 1
    figures: Mapping[str, float] = field(default_factory=dict, hash=False)
    ms: Mapping[int, tuple[float, ...]] = field(default_factory=dict, hash=False)
    parts: tuple[Part, ...] = ()

    @classmethod
    def upgraded(cls, data: dict[str, Any]) -> dict[str, Any]:
        return {"name" if name == "called" else name: value for name, value in data.items()}


WHOLE = Whole(
    "a \udce9",  # as Python reads the name of a file that is not UTF-8
    part=Part((0.5, 0.25)),
    options=(("images", 16), ("by", "x")),
    figures={"loss": 1.5, "gap": 2.0},
    ms={8: (1.0,), 16: (2.0, 3.0)},
    parts=(Part(), Part(1.0)),
)


def test_what_was_written_is_read() -> None:
    assert WHOLE.part.doubled == (0.5, 0.25)
    assert Whole.from_json(WHOLE.to_json()) == WHOLE
    assert hash(Whole.from_json(WHOLE.to_json())) == hash(WHOLE)
    data = json.loads(WHOLE.to_json())
    assert data["version"] == 2 and list(data)[1:4] == ["name", "align", "part"]
    assert data["part"] == {"share": [0.5, 0.25]}  # and nothing that was cached beside the fields
    assert type(Whole.from_json('{"name": "a", "amount": 3}').amount) is int


def test_older_files_are_read_and_later_ones_refused(tmp_path: Path) -> None:
    assert (
        Whole.from_json('{"called": "a"}') == Whole.from_json('{"version": 1, "called": "a"}') == Whole("a")
    )
    (tmp_path / "a.json").write_text('{"version": 3, "name": "a", "mood": "good"}')
    with pytest.raises(ValueError) as caught:
        Whole.read(tmp_path / "a.json")
    assert str(caught.value) == (
        f"{tmp_path / 'a.json'} was written by a later PruneScope (version 3; this one reads up to 2): "
        "update PruneScope"
    )


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"align": "8"}, "`align` must be a whole number, got text"),
        ({"align": 8.0}, "`align` must be a whole number, got a number"),
        ({"align": True}, "`align` must be a whole number, got true or false"),
        ({"align": None}, "`align` must be a whole number, got null"),
        ({"align": [1]}, "`align` must be a whole number, got a list"),
        ({"name": {}}, "`name` must be text, got an object"),
        ({"limit": "x"}, "`limit` must be a whole number or null, got text"),
        ({"part": None}, "`part` must be an object, got null"),
        ({"part": {"share": "x"}}, "`part.share` must be a number or a list, got text"),
        ({"part": {"share": [1, None]}}, "`part.share[1]` must be a number, got null"),
        ({"part": {"share": 5}}, "`part`: a share must not be 5"),
        ({"part": {"shares": 1}}, "there is no field `part.shares`"),
        ({"parts": [{}, {"share": 1, "of": 2}]}, "there is no field `parts[1].of`"),
        ({"mood": "good"}, "there is no field `mood`"),
        ({"options": [["a", 1], ["b", 2, 3]]}, "`options[1]` must be a list of 2, got 3"),
        (
            {"options": [["a", []]]},
            "`options[0][1]` must be true or false, a whole number, a number or text,",
        ),
        ({"figures": {"loss": 1, "gap": "x"}}, "`figures.gap` must be a number, got text"),
        ({"ms": {"8": [1], "9": [1, "2"]}}, "`ms.9[1]` must be a number, got text"),
        ({"ms": {"eight": [1]}}, "a name in `ms` must be a whole number, got text"),
        ({"version": "2"}, "`version` must be a whole number, got text"),
        ({"version": -1}, "`version` must be a whole number"),
        ({"figures": {"loss": float("nan")}}, "`figures.loss` must be a finite number, got nan"),
        ({"figures": {"loss": float("inf")}}, "`figures.loss` must be a finite number, got inf"),
        ({"align": 10**30}, "`align` must be a number of at most 64 bits, got one of 31 digits"),
        ({"part": {"share": [0, -(10**400)]}}, "`part.share[1]` must be a number of at most 64 bits"),
    ],
    ids=str,
)
def test_a_flaw_is_a_sentence(tmp_path: Path, changes: dict[str, Any], sentence: str) -> None:
    (tmp_path / "a.json").write_text(json.dumps(json.loads(WHOLE.to_json()) | changes))
    with pytest.raises(ValueError) as caught:
        Whole.read(tmp_path / "a.json")
    assert str(caught.value).startswith(f"{tmp_path / 'a.json'}: {sentence}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is not JSON: Expecting value"),
        (b'{"name": "a"', "is not JSON: Expecting ',' delimiter"),
        (b"[]", "must be an object, got a list"),
        (b"null", "must be an object, got null"),
        (b'{"name": "\xff"}', "is not UTF-8 text: byte 10 is 0xff"),
        (b"[" * 100_000, "is nested too deeply"),
        (b'{"name": ' + b"[" * 900 + b"]" * 900 + b"}", ""),
        (b'{"name": "a", "part": ' + b'{"a":' * 900 + b"1" + b"}" * 901, ""),
        (
            b'{"name": "a", "align": ' + b"9" * 5000 + b"}",
            "is not JSON: a number in it has thousands of digits",
        ),
        (b'{"name": "a", "align": 1, "align": 2}', "`align` stands twice in one object"),
        (b'{"name": "a", "amount": 1e999}', "`amount` must be a finite number, got inf"),
        (b"{}", "`name` is missing"),
        (b'{"name": "a", "align": "\\ud800"}', " holds text that is not UTF-8 where a number belongs"),
    ],
)
def test_a_damaged_text_is_a_sentence(tmp_path: Path, content: bytes, sentence: str) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ValueError) as caught:
        Whole.read(tmp_path / "a.json")
    said = str(caught.value)
    assert said.startswith(str(tmp_path / "a.json")) and sentence in said and "\n" not in said


def test_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.json"
    assert Whole.find(file) is None
    with pytest.raises(ValueError, match=r"a\.json cannot be read: No such file"):
        Whole.read(file)
    with pytest.raises(ValueError, match="cannot be read: it is a folder, not a regular file"):
        Whole.read(tmp_path)
    file.write_bytes(b'\xef\xbb\xbf{"name": "a"}')  # as Notepad saves it
    assert Whole.find(file) == Whole("a")
    monkeypatch.setattr(Whole, "MOST_BYTES", 10)
    with pytest.raises(
        ValueError, match=r"a\.json cannot be read: it is too large: 16 bytes, at most 10 are read"
    ):
        Whole.read(file)


def test_what_is_torn_is_told_from_what_is_wrong() -> None:
    for torn in ('{"name": "a', b'{"name": "\xff"}', "", "[" * 100_000):
        with pytest.raises(NotJson):
            Whole.from_json(torn)
    for wrong in ("{}", "[1]", '{"name": NaN}', '{"name": 1, "name": 2}'):
        with pytest.raises(ValueError, match=r"^[^\n]+$") as caught:
            Whole.from_json(wrong)
        assert not isinstance(caught.value, NotJson)


def test_a_part_of_a_larger_file_is_named_from_its_top() -> None:
    for data, sentence in [
        ({"align": 1}, "`job.name` is missing"),
        ({"name": 1}, "`job.name` must be text"),
        ({"name": "a", "part": {"of": 1}}, "no field `job.part.of`"),
        ({"name": "a", "figures": {"gap": "x"}}, "`job.figures.gap` must be a number"),
        ({"name": "a", "version": None}, "`job.version` must be a whole number"),
        (["a"], "`job` must be an object, got a list"),
    ]:
        with pytest.raises(ValueError, match=sentence):
            Whole.from_data(data, "job")


Make: Any = Whole  # what follows is of wrong types on purpose
MakePart: Any = Part


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Make("a", align="8"), "`align` must be a whole number, got text"),
        (lambda: Make(5), "`name` must be text, got a whole number"),
        (lambda: Make("a", part="x"), "`part` must be an object, got text"),
        (lambda: Make("a", options=("a",)), r"`options\[0\]` must be a list, got text"),
        (lambda: Make("a", figures={"gap": "x"}), r"`figures.gap` must be a number, got text"),
        (lambda: Make(Path("x")), "`name` must be text, got PosixPath"),
        (lambda: Make("a", limit=np.int64(3)), "`limit` must be a whole number or null, got numpy.int64"),
        (lambda: MakePart((0.5, "x")), r"`share\[1\]` must be a number, got text"),
        (lambda: MakePart(True), "`share` must be a number or a list, got true or false"),
        (lambda: MakePart(10**400), "`share`: Number out of range"),
        (
            lambda: Make("a", align=2**63),
            "`align` must be a number of at most 64 bits, got one of 19 digits",
        ),
    ],
)
def test_what_code_passes_in_is_checked_too(make: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        make()


def test_numbers_and_lists_of_other_makes_are_taken() -> None:
    assert type(Part(np.float64(0.5)).share) is float and Part((np.float64(0.5), 0.25)) == Part((0.5, 0.25))
    assert MakePart([0.5, 0.25]) == Part((0.5, 0.25)) and hash(MakePart([0.5])) == hash(Part((0.5,)))
    assert Make("a", options=[["images", 1]]).options == (("images", 1),)


def test_nothing_that_is_not_finite_is_written() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        Whole("a", amount=float("nan")).to_json()
    assert formats.dump({"a": 1}) == '{"a": 1}\n'


@pytest.mark.parametrize("depth", [65, 900, 100_000])
@pytest.mark.parametrize("text", ["{}", '{{"a": {}, "b": 1}}', '[1, {{"a": {}}}]'])
def test_nesting_is_bounded(depth: int, text: str) -> None:
    for nested in ("[" * depth + "]" * depth, '{"a":' * depth + "1" + "}" * depth):
        with pytest.raises(NotJson, match="this is nested too deeply: at most 64 levels are read"):
            formats.parse(text.format(nested))
    shallow = json.dumps([[{"[": "[" * 200}]] * 100)
    assert formats.parse(shallow) == json.loads(shallow)
    assert formats.parse("[" * 64 + "]" * 64)
