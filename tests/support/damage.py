"""Ways in which a file of a run can be damaged."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any


def _replaced(content: bytes) -> Callable[[Path], None]:
    def damage(file: Path) -> None:
        _remove(file)
        file.write_bytes(content)

    return damage


def _remove(file: Path) -> None:
    file.unlink(missing_ok=True)


def _then(make: Callable[[Path], None]) -> Callable[[Path], None]:
    def damage(file: Path) -> None:
        _remove(file)
        make(file)

    return damage


def _absurd(whole: int, broken: float) -> Callable[[Path], None]:
    """Every number in the file becomes one of these two; a file that is no JSON gets a header of its own."""

    def of(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: one if key == "version" else of(one) for key, one in value.items()}
        if isinstance(value, list):
            return [of(one) for one in value]
        numbers = {int: whole, float: broken}
        return numbers.get(type(value), value)

    def damage(file: Path) -> None:
        try:
            text = json.dumps(of(json.loads(file.read_text())))
        except ValueError:
            text = "\x08" + "\0" * 7 + "{}      "
        except FileNotFoundError:  # the curves of a run that did not train
            text = json.dumps(
                {"what": "x", "step": whole, "time": broken, "attempt": whole, "values": {"loss": broken}}
            )
        file.write_text(text + "\n")

    return damage


DAMAGE: dict[str, Callable[[Path], None]] = {
    "missing": _remove,
    "empty": _replaced(b""),
    "noise": _replaced(bytes(range(256)) * 4),
    "a list": _replaced(b"[1]\n"),
    "an empty object": _replaced(b"{}\n"),
    "absurd": _absurd(10**15, 1e300),
    "below zero": _absurd(-(10**15), -1e300),
    "a folder": _then(Path.mkdir),
    "a pipe": _then(os.mkfifo),
    "a circle": _then(lambda file: file.symlink_to(file)),
}
RECORDS = ("job.json", "status.json", "metrics.jsonl", "evaluations.json")
BUNDLED = ("report.json", "plan.json", "architecture.json", "preprocess.json", "model.safetensors")
FILES = (*RECORDS, *(f"bundle/{name}" for name in BUNDLED))
