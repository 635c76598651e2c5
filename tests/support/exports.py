"""Stand-ins for the writers of exported files, for tests of what happens around them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from pruning.export import formats


def stand_in(monkeypatch: pytest.MonkeyPatch, write: Callable[..., None], *names: str) -> None:
    """Have the named formats, or all, written by `write`."""
    for name in names or tuple(formats.FILES):
        monkeypatch.setitem(formats.FILES, name, replace(formats.FILES[name], write=write))
