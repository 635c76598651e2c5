"""Read images from a zip without extracting it, and refuse zips that are not safe to open."""

from __future__ import annotations

import os
import struct
import threading
import zipfile
import zlib
from collections.abc import Sequence
from lzma import LZMAError
from pathlib import Path, PureWindowsPath
from typing import Any

from PIL import Image

from analysis.data.images import MAX_BYTES, MOST_GREY, BadImageError, read_image
from analysis.paths import open_regular

MAX_ZIP_BYTES = 64 * 2**30  # uncompressed size of a zip
MAX_MEMBER_BYTES = MAX_BYTES  # uncompressed size of one file in it
MAX_COMPRESSION = 200  # images hardly compress: a higher ratio is a zip bomb
_COMPRESSION_COUNTS_FROM = 2**20  # a small image of one colour may compress as much as a zip bomb

ZIP_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    LZMAError,
    struct.error,
    OSError,
    EOFError,
    LookupError,
    ValueError,
    RuntimeError,  # includes NotImplementedError, for compression methods Python does not support
)


def list_zip(path: Path) -> dict[str, str]:
    """The files of a zip that is safe to open: name with forward slashes -> name in the zip.

    Raises:
        ValueError: not a zip, damaged, encrypted, or not safe to open.
    """
    members = _members(path)
    _check_bounds(members, path)
    names = {}
    for member in members:
        inside = PureWindowsPath(member.filename)  # handles both kinds of slashes, and drive letters
        if inside.anchor or ".." in inside.parts:
            raise ValueError(
                f"{path.name} is not safe to open: the path {member.filename!r} leads out of the zip"
            )
        if member.flag_bits & 1:
            raise ValueError(f"{path.name} is encrypted: create a zip of the images without a password")
        names["/".join(inside.parts) + "/" * member.filename.endswith("/")] = member.filename
    return names


def _members(path: Path) -> list[zipfile.ZipInfo]:
    try:
        with open_regular(path) as file:
            begins_as_zip = file.read(4) == b"PK\x03\x04"
        with zipfile.ZipFile(path) as archive:
            return archive.infolist()
    except OSError as error:
        raise ValueError(f"{path.name} cannot be read: {error.strerror}") from error
    except ZIP_ERRORS as error:
        if begins_as_zip:
            raise ValueError(f"{path.name} is a damaged or truncated zip ({_one_line(error)})") from error
        raise ValueError(f"{path.name} is not a zip: images come in a folder or in a zip of one") from error


def _check_bounds(members: Sequence[zipfile.ZipInfo], path: Path) -> None:
    total = sum(member.file_size for member in members)
    _check_size(path.name, total, path.stat().st_size, MAX_ZIP_BYTES)
    for member in members:
        name = f"{path.name} with {member.filename!r}"
        _check_size(name, member.file_size, member.compress_size, MAX_MEMBER_BYTES)


def _check_size(name: str, size: int, packed: int, bound: int) -> None:
    if size > bound:
        raise ValueError(
            f"{name} is not safe to open: it unpacks to {_size(size)}, the limit is {_size(bound)}"
        )
    if size > _COMPRESSION_COUNTS_FROM and size > MAX_COMPRESSION * packed:
        raise ValueError(
            f"{name} is not safe to open: {_size(packed)} unpack to {_size(size)}, "
            f"the limit is {MAX_COMPRESSION} times as much"
        )


def _size(count: int) -> str:
    for unit, bytes_ in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= bytes_:
            return f"{count / bytes_:.3g} {unit}"
    return f"{count} bytes"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


class ZippedImages:
    """Images in a zip, which any thread or process may read.

    The archive stays open, because reading a directory of 50,000 files takes a while. Each process
    opens its own: after a fork the file position would be shared with the parent.
    """

    def __init__(
        self, path: Path, names: tuple[str, ...], members: tuple[str, ...], white: int = MOST_GREY
    ) -> None:
        self.path, self.names, self.members, self.white = path, names, members, white
        self._opened: tuple[int, zipfile.ZipFile, threading.Lock] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}

    def image(self, item: int) -> Image.Image:
        return read_image(self.content(item), self._name(item), self.white)

    def content(self, item: int) -> bytes:
        try:
            return self._read(self.members[item])
        except ZIP_ERRORS as error:
            raise BadImageError(f"{self._name(item)} cannot be read: {_one_line(error)}") from error

    def _name(self, item: int) -> str:
        return f"{self.names[item]} in {self.path.name}"

    def _read(self, member: str) -> bytes:
        opened = self._opened
        if opened is None or opened[0] != os.getpid():
            opened = self._opened = (os.getpid(), zipfile.ZipFile(self.path), threading.Lock())
        with opened[2]:
            return opened[1].read(member)
