"""Results that took long to measure, kept on this machine under a key of all they depend on.

They lie in `$PRUNESCOPE_CACHE`, or `prunescope` in the user's cache folder. Everything in it can be
measured again: deleting it loses time and nothing else.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from pruning.files import replace_text

MOST = 200  # results of a kind that are kept; the oldest go first


def cache_folder() -> Path:
    """Where results are kept; it need not exist yet."""
    given = os.environ.get("PRUNESCOPE_CACHE")
    if given:
        return Path(given).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "prunescope"


def kept_file(kind: str, key: str) -> Path:
    """Where a result of this kind and key lies, if it was kept."""
    return cache_folder() / kind / f"{key}.json"


def keep(kind: str, key: str, text: str) -> Path:
    """Keep a result; the file appears whole, and the oldest beyond `MOST` go.

    Raises:
        OSError: it cannot be written.
    """
    file = kept_file(kind, key)
    file.parent.mkdir(parents=True, exist_ok=True)
    replace_text(file, text)
    for old in sorted(file.parent.glob("*.json"), key=_age, reverse=True)[MOST:]:
        with suppress(OSError):  # another process was faster
            old.unlink()
    return file


def _age(file: Path) -> float:
    try:
        return file.stat().st_mtime
    except OSError:
        return 0.0
