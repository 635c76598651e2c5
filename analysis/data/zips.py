"""Images inside a zip, read member by member: nothing is unpacked, nothing harmful is opened."""

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

from analysis.data.images import BadImageError, read_image

MAX_ZIP_BYTES = 64 * 2**30  # a zip may declare this much unpacked, a member that much
MAX_MEMBER_BYTES = 256 * 2**20
MAX_COMPRESSION = 200  # images hardly compress: more than this is a bomb
_COMPRESSION_COUNTS_FROM = 2**20  # a small flat picture may compress like a bomb

_ZIP_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    LZMAError,
    struct.error,
    OSError,
    EOFError,
    LookupError,
    ValueError,
    RuntimeError,  # NotImplementedError (a compression Python has not) is one
)


def list_zip(path: Path) -> dict[str, str]:
    """Members of a zip that is safe to open: name with plain slashes -> name in the zip.

    Raises:
        ValueError: no zip, damaged, encrypted, or built to do harm.
    """
    members = _members(path)
    _check_bounds(members, path)
    names = {}
    for member in members:
        inside = PureWindowsPath(member.filename)  # knows both slashes and drive letters
        if inside.anchor or ".." in inside.parts:
            raise ValueError(f"{path.name} is not safe to open: {member.filename!r} leads out of the zip")
        if member.flag_bits & 1:
            raise ValueError(f"{path.name} is encrypted: make a zip of the images without a password")
        names["/".join(inside.parts) + "/" * member.is_dir()] = member.filename
    return names


def _members(path: Path) -> list[zipfile.ZipInfo]:
    try:
        with path.open("rb") as file:
            begins_as_zip = file.read(4) == b"PK\x03\x04"
        with zipfile.ZipFile(path) as archive:
            return archive.infolist()
    except OSError as error:
        raise ValueError(f"{path.name} cannot be read: {error.strerror}") from error
    except _ZIP_ERRORS as error:
        if begins_as_zip:
            raise ValueError(f"{path.name} is a damaged or truncated zip: {_one_line(error)}") from error
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
            f"{name} is not safe to open: it unpacks to {_size(size)}, at most {_size(bound)} may"
        )
    if size > _COMPRESSION_COUNTS_FROM and size > MAX_COMPRESSION * packed:
        raise ValueError(
            f"{name} is not safe to open: {_size(packed)} unpack to {_size(size)}, "
            f"at most {MAX_COMPRESSION} times as much may"
        )


def _size(count: int) -> str:
    for unit, bytes_ in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= bytes_:
            return f"{count / bytes_:.3g} {unit}"
    return f"{count} bytes"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


class ZippedImages:
    """A source of images inside a zip, for any thread or process.

    An open archive is kept, as reading the table of contents of 50,000 members takes a while. It
    belongs to one process: a forked one shares the file's position with its parent and opens its own.
    """

    def __init__(self, path: Path, names: tuple[str, ...], members: tuple[str, ...]) -> None:
        self.path, self.names, self.members = path, names, members
        self._opened: tuple[int, zipfile.ZipFile, threading.Lock] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}

    def image(self, item: int) -> Image.Image:
        return read_image(self.content(item), self._name(item))

    def content(self, item: int) -> bytes:
        try:
            return self._read(self.members[item])
        except _ZIP_ERRORS as error:
            raise BadImageError(f"{self._name(item)} cannot be read: {_one_line(error)}") from error

    def _name(self, item: int) -> str:
        return f"{self.names[item]} in {self.path.name}"

    def _read(self, member: str) -> bytes:
        opened = self._opened
        if opened is None or opened[0] != os.getpid():
            opened = self._opened = (os.getpid(), zipfile.ZipFile(self.path), threading.Lock())
        with opened[2]:
            return opened[1].read(member)
