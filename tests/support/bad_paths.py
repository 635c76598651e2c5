"""Paths that no file can have, and things in folders that are not files, for every reader and option."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

# What a user may write, and a part of the sentence that refuses it. `{}` is a folder of the test.
BAD_PATHS = {
    "nothing": ("", "is empty"),
    "spaces": ("   ", "is empty"),
    "null byte": ("a\0b", "null byte"),
    "unknown user": ("~nosuchuser/x", "user or home folder is not known"),
    "long name": ("x" * 5000, "too long"),
    "long path": ("x/" * 4000, "too long"),
    "not UTF-8": ("caf\udce9", "not UTF-8"),
    "circle of links": ("{}/circle", "Too many levels of symbolic links"),
    "inside a circle": ("{}/circle/inside", "Too many levels of symbolic links"),
}


def bad_path(name: str, folder: Path) -> tuple[str, str]:
    """A bad path, and a part of the sentence that refuses it."""
    circle = folder / "circle"
    if not circle.is_symlink():
        circle.symlink_to(circle)
    text, said = BAD_PATHS[name]
    return text.replace("{}", str(folder)), said


def _socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # the path of a socket may be 100 bytes long only
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    finally:
        os.chdir(here)


# How to put something that is no regular file at a path.
NOT_FILES: dict[str, Callable[[Path], None]] = {
    "a named pipe": os.mkfifo,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a socket": _socket,
    "a folder": lambda path: path.mkdir(),
}
