"""JSON as text: read from files of a bounded size, parsed, and what is wrong with it said in one sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from analysis.paths import read_regular

MOST_BYTES = 2**24  # of a file, unless its format says otherwise; parsed it takes up to 30 times as much
MOST_DEPTH = 64  # of lists and objects inside each other; no format of ours has more than ten


class NotJson(ValueError):
    """A text that cannot be read as JSON at all, such as half a line."""


def read_text(file: Path, most: int = MOST_BYTES) -> str:
    """The text of a file of at most so many bytes.

    Raises:
        ValueError: it cannot be read, is larger, is no regular file, or is not UTF-8; the sentence names it.
    """
    try:
        return read_regular(file, most).decode("utf-8-sig")  # some editors put a mark before the text
    except UnicodeDecodeError as error:
        raise in_file(file, _not_utf8(error)) from error
    except OSError as error:
        raise ValueError(f"{file} cannot be read: {error.strerror or error}") from error


def in_file(file: Path | str, error: ValueError) -> ValueError:
    """The same error, about the content of this file."""
    said = str(error)
    return ValueError(f"{file} {said[5:]}" if said.startswith("this ") else f"{file}: {said}")


def parse(text: str | bytes) -> Any:
    """JSON as Python reads it, but with no name twice in one object, and at most `MOST_DEPTH` levels deep.

    Raises:
        NotJson: it is none, or nested more deeply.
        ValueError: a name stands twice in one object.
    """
    try:
        whole = text if isinstance(text, str) else text.decode()
        found = _DECODER.decode(whole)
        _require_shallow(found, whole)
        return found
    except UnicodeDecodeError as error:
        raise _not_utf8(error) from error
    except RecursionError as error:
        raise NotJson(_TOO_DEEP) from error
    except NotJson:
        raise
    except _Twice as error:
        raise ValueError(str(error)) from error
    except json.JSONDecodeError as error:
        raise NotJson(f"this is not JSON: {error}") from error
    except ValueError as error:  # Python reads numbers of some thousand digits only
        raise NotJson("this is not JSON: a number in it has thousands of digits") from error


def _not_utf8(error: UnicodeDecodeError) -> NotJson:
    return NotJson(f"this is not UTF-8 text: byte {error.start:,} is 0x{error.object[error.start]:02x}")


_TOO_DEEP = f"this is nested too deeply: at most {MOST_DEPTH} levels are read"


def _require_shallow(data: Any, text: str) -> None:
    if text.count("[") + text.count("{") <= MOST_DEPTH:
        return
    level = [data]
    for _ in range(MOST_DEPTH + 1):
        holders = [one for one in level if type(one) in (dict, list)]
        if not holders:
            return
        level = [one for holder in holders for one in (holder.values() if type(holder) is dict else holder)]
    raise NotJson(_TOO_DEEP)


class _Twice(ValueError):
    """A name stands twice in one object."""


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise _Twice(f"`{next(n for n in names if names.count(n) > 1)}` stands twice in one object")
    return found


_DECODER = json.JSONDecoder(object_pairs_hook=_each_once)


def dump(data: object, indent: int | None = None, ascii_only: bool = True) -> str:
    """Data as the text of a JSON file.

    Raises:
        ValueError: it holds a number that is not finite.
    """
    return json.dumps(data, indent=indent, ensure_ascii=ascii_only, allow_nan=False) + "\n"
