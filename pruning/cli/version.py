"""Which version of PruneScope this is."""

from __future__ import annotations

import tomllib
from importlib import metadata
from pathlib import Path

_PROJECT = Path(__file__).resolve().parents[2] / "pyproject.toml"


def version() -> str:
    """The version of the installed package, or in the repository the one it would be built with."""
    if _PROJECT.is_file():
        described = tomllib.loads(_PROJECT.read_text(encoding="utf-8"))
        return str(described["project"]["version"])
    return metadata.version(__name__.partition(".")[0])
