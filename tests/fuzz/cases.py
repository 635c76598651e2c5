"""A case of the fuzz test: a folder of valid files, some of them replaced, and what is done with it."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Special:
    """Something at a path that is no regular file: a `pipe`, a `folder`, a `link` to `to`, or `nothing`."""

    kind: str
    to: str = ""


Content = bytes | Special


class Blob(bytes):
    """The content of a valid file, which takes no megabyte in a message of hypothesis."""

    def __repr__(self) -> str:
        return f"<{len(self)} bytes>"


class Valid(dict[str, Blob]):
    """Valid files by their path."""

    def __repr__(self) -> str:
        return f"<{len(self)} valid files>"


@dataclass(frozen=True)
class Case:
    """What lies at which path beside the valid files, and the words that the target is given."""

    target: str
    files: Mapping[str, Content] = field(default_factory=dict)
    words: tuple[str, ...] = ()

    def to_json(self) -> str:
        """Serialise, for a failing case that is kept and for the process that tries it."""
        files = {
            name: [one.kind, one.to] if isinstance(one, Special) else base64.b64encode(one).decode()
            for name, one in self.files.items()
        }
        return json.dumps({"target": self.target, "files": files, "words": self.words})

    @classmethod
    def from_json(cls, text: str) -> Case:
        """Rebuild from `to_json`."""
        data = json.loads(text)
        files: dict[str, Content] = {
            name: Special(*one) if isinstance(one, list) else base64.b64decode(one)
            for name, one in data["files"].items()
        }
        return cls(data["target"], files, tuple(data["words"]))

    def put(self, root: Path) -> None:
        """Put its files into a folder, in place of what is there."""
        for name, one in self.files.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            if isinstance(one, bytes):
                path.write_bytes(one)
            elif one.kind == "pipe":
                os.mkfifo(path)
            elif one.kind == "folder":
                path.mkdir()
            elif one.kind == "link":
                path.symlink_to(one.to)
