"""A cache of results that take long to measure, under keys that cover everything they depend on.

It is in `$PRUNESCOPE_CACHE`, by default `prunescope` in the user's cache folder. It can be deleted at
any time; its content is then measured again.
"""

from __future__ import annotations

import os
import uuid
from contextlib import suppress
from pathlib import Path

from analysis.paths import user_path
from pruning.files import replace_text

MOST = 200  # results of one kind that are kept; the oldest are deleted


def cache_folder() -> Path:
    """The cache folder, which may not exist yet.

    Raises:
        ValueError: no folder can have the path that was configured, or the user has no home folder.
    """
    configured = os.environ.get("PRUNESCOPE_CACHE")
    if configured:
        return user_path(configured, "$PRUNESCOPE_CACHE")
    base = os.environ.get("XDG_CACHE_HOME")
    if base:
        return user_path(base, "$XDG_CACHE_HOME") / "prunescope"
    try:
        return Path.home() / ".cache" / "prunescope"
    except RuntimeError as error:
        raise ValueError("this user has no home folder for a cache: set $PRUNESCOPE_CACHE") from error


def kept_file(kind: str, key: str) -> Path:
    """The file for a result of this kind and key, whether or not it exists."""
    return cache_folder() / kind / f"{key}.json"


def keep(kind: str, key: str, text: str) -> Path:
    """Write a result atomically, and delete the oldest ones if there are more than `MOST`.

    Raises:
        OSError: the file cannot be written.
    """
    file = kept_file(kind, key)
    file.parent.mkdir(parents=True, exist_ok=True)
    stage = file.with_name(f".{uuid.uuid4().hex[:12]}.part")  # another process may keep the same result
    try:
        replace_text(stage, text)
        stage.replace(file)
    finally:
        stage.unlink(missing_ok=True)
    for old in sorted(file.parent.glob("*.json"), key=_modified, reverse=True)[MOST:]:
        with suppress(OSError):  # another process may have deleted it
            old.unlink()
    return file


def _modified(file: Path) -> float:
    try:
        return file.stat().st_mtime
    except OSError:
        return 0.0
