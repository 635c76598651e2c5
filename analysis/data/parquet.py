"""Images in parquet files, as Hugging Face data sets have them: a column of images and one of labels.

pyarrow reads them, an optional package. Labels are read when a set is opened, images when they are asked for.
"""

from __future__ import annotations

import os
import re
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image

from analysis.data.images import MAX_BYTES, MOST_GREY, BadImageError, read_image
from analysis.data.labels import SLASH
from analysis.data.listing import MOST_ENTRIES, Listed
from analysis.data.splits import is_divided, is_part
from analysis.formats import parse
from analysis.paths import open_regular

PARQUET = ".parquet"
MOST_FILES = 4096
MOST_GROUP = 2**30  # bytes of the images in one row group
KEPT = 2**28  # bytes of images that are kept, as whole row groups are read
OPEN = 32  # files that are kept open
_STEP = 32  # rows that are decoded at once
_IMAGES = ("image", "img", "picture", "photo", "jpg", "png", "jpeg")
_LABELS = ("label", "labels", "fine_label", "class", "target", "category")


@dataclass(frozen=True)
class _Columns:
    """The column of images, as a path to its bytes, and that of labels with the names of its numbers."""

    content: str
    file: str | None
    label: str
    names: tuple[str, ...]


def list_parquet(folder: Path, names: Sequence[str], where: str) -> Listed:
    """The images in parquet files of a folder, in made-up class folders.

    Files called train-... and validation-..., or in folders called so, are the parts of a divided set.

    Raises:
        ValueError: pyarrow is missing, a file is damaged, or it has no images or no labels.
    """
    if len(names) > MOST_FILES:
        raise ValueError(f"{where} holds {len(names):,} parquet files, at most {MOST_FILES:,} are read")
    parts = {name: _part(name) for name in sorted(names)}
    divided = is_divided(f"{part}/" for part in parts.values())
    entries: dict[str, str] = {}
    numbered: list[tuple[str, ...]] = []
    unlabelled = 0
    for name, part in parts.items():
        labels, known = _labels(folder, name)
        numbered.append(known)
        stem = name.removesuffix(PurePosixPath(name).suffix).replace("/", "-")
        for row, (label, suffix) in enumerate(labels):
            unlabelled += label is None
            if label is not None:
                begin = f"{part}/" if divided else ""
                entries[f"{begin}{label}/{stem}-{row:06d}{suffix}"] = f"{name}#{row}"
        if len(entries) > MOST_ENTRIES:
            raise ValueError(f"{where} holds more than {MOST_ENTRIES:,} images")
    if not entries:
        raise ValueError(f"{where} has no images with labels")
    folders = {entry.split("/")[divided] for entry in entries}
    notes = (f"left out of {where}: {unlabelled:,} images without a label",) if unlabelled else ()
    same = numbered[0] if len(set(numbered)) == 1 else ()
    return Listed(
        folder, ParquetImages, entries, "", tuple(sorted(entries)), tuple(sorted(folders)), where, same, notes
    )


def _part(name: str) -> str:
    """The part that a file is called after, as `data/train-00000-of-00002.parquet`, `train/0000.parquet`."""
    *above, file = name.split("/")
    words = (re.split(r"[-_.]", file)[0], *reversed(above))
    return next((word for word in words if is_part(word)), "")


def _labels(folder: Path, name: str) -> tuple[list[tuple[str | None, str]], tuple[str, ...]]:
    """The label and the suffix of every image of a file, and the names of its numbers."""
    with _said(name), _parquet_file(folder / name) as file:
        columns = _columns(file, name)
        if file.metadata.num_rows > MOST_ENTRIES:
            raise ValueError(f"{name} holds more than {MOST_ENTRIES:,} images")
        read = [columns.label, *([columns.file] if columns.file else [])]
        table = file.read(columns=read, use_threads=False)
        labels = table.column(columns.label).to_pylist()
        files = [""] * len(labels)
        if columns.file:
            outer, _, inner = columns.file.partition(".")
            files = [(row or {}).get(inner) or "" for row in table.column(outer).to_pylist()]
    suffixes = [
        suffix if re.fullmatch(r"\.\w{1,5}", suffix := PurePosixPath(f).suffix) else "" for f in files
    ]
    return [
        (_label(label, columns, name), suffix) for label, suffix in zip(labels, suffixes, strict=True)
    ], columns.names


def _label(label: Any, columns: _Columns, name: str) -> str | None:
    """A label as the name of a folder; None if there is none, which Hugging Face writes as -1."""
    if label is None or (type(label) is int and label < 0):
        return None
    if type(label) is int and columns.names:
        if label >= len(columns.names):
            raise ValueError(f"{name} has the label {label}, and names for {len(columns.names)} only")
        return columns.names[label]
    if type(label) not in (int, str) or not str(label).strip():
        raise ValueError(f"{name}: `{columns.label}` must hold whole numbers or text, got {label!r:.40}")
    return str(label).strip().replace("/", SLASH)


# ---- the columns


def _columns(file: Any, name: str) -> _Columns:
    schema = file.schema_arrow
    features = _features(schema.metadata or {})
    said = [column for column in schema.names if features.get(column, {}).get("_type") == "Image"]
    structs = [column for column in schema.names if _has_bytes(schema.field(column).type)]
    plain = [column for column in schema.names if column in _IMAGES and _is_binary(schema.field(column).type)]
    image = next(iter([column for column in said if column in structs] or structs or plain), None)
    if image is None:
        raise ValueError(f"{name} has no column of images; its columns are {_some(schema.names)}")
    classes = [column for column in schema.names if features.get(column, {}).get("_type") == "ClassLabel"]
    candidates = [column for column in _LABELS if column in schema.names]
    both = [column for column in candidates if column in classes] or candidates
    if not both and len(classes) == 1:
        both = classes
    if not both:
        raise ValueError(f"{name} has no column `label`; its columns are {_some(schema.names)}")
    names = features.get(both[0], {}).get("names") if both[0] in classes else None
    if image in plain and image not in structs:
        return _Columns(image, None, both[0], _unique(names))
    fields = [field.name for field in schema.field(image).type]
    return _Columns(f"{image}.bytes", f"{image}.path" if "path" in fields else None, both[0], _unique(names))


def _features(metadata: dict[bytes, bytes]) -> dict[str, Any]:
    """What Hugging Face datasets notes of the columns in a file; empty if nothing that can be read."""
    try:
        found = parse(metadata.get(b"huggingface", b"{}"))["info"]["features"]
    except (ValueError, KeyError, TypeError):
        return {}
    known = found.items() if isinstance(found, dict) else ()
    return {column: feature for column, feature in known if isinstance(feature, dict)}


def _unique(names: Any) -> tuple[str, ...]:
    """The names of classes, each once: ImageNet has two that are called crane."""
    if not isinstance(names, list) or not all(isinstance(name, str) and name.strip() for name in names):
        return ()
    plain = [name.strip().replace("/", SLASH) for name in names]
    twice = len(set(plain)) < len(plain)
    return tuple(
        f"{name} ({index})" if twice and plain.index(name) < index else name
        for index, name in enumerate(plain)
    )


def _has_bytes(kind: Any) -> bool:
    from pyarrow import types

    return types.is_struct(kind) and any(field.name == "bytes" and _is_binary(field.type) for field in kind)


def _is_binary(kind: Any) -> bool:
    from pyarrow import types

    return types.is_binary(kind) or types.is_large_binary(kind)


def _some(names: Sequence[str], shown: int = 6) -> str:
    return ", ".join(name[:40] for name in names[:shown]) + (", ..." if len(names) > shown else "")


# ---- reading


class ParquetImages:
    """Images in parquet files, which any thread or process may read; `members` are `file#row`.

    An image is read together with those of its row group, so the groups read last are kept. Each process
    opens files of its own.
    """

    def __init__(
        self, path: Path, names: tuple[str, ...], members: tuple[str, ...], white: int = MOST_GREY
    ) -> None:
        self.path, self.names, self.members, self.white = path, names, members, white
        self._reader: tuple[int, _Reader] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_reader": None}

    def image(self, item: int) -> Image.Image:
        return read_image(self.content(item), self.members[item], self.white)

    def content(self, item: int) -> bytes:
        name, _, row = self.members[item].rpartition("#")
        reader = self._reader
        if reader is None or reader[0] != os.getpid():
            reader = self._reader = (os.getpid(), _Reader(self.path))
        try:
            found = reader[1].content(name, int(row))
        except BadImageError:
            raise
        except ValueError as error:
            raise BadImageError(str(error)) from error
        if found is None:
            raise BadImageError(f"{self.members[item]} holds no image, at most the name of a file elsewhere")
        if len(found) > MAX_BYTES:
            raise BadImageError(f"{self.members[item]} is too large: at most {MAX_BYTES:,} bytes are read")
        return found


class _Reader:
    """Open files, and the images of the row groups read last."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lock = threading.Lock()
        self.files: OrderedDict[str, tuple[Any, str, tuple[int, ...]]] = OrderedDict()
        self.groups: OrderedDict[tuple[str, int], _Group] = OrderedDict()

    def content(self, name: str, row: int) -> bytes | None:
        with self.lock, _said(name):
            file, column, starts = self._file(name)
            group = bisect_right(starts, row) - 1
            if (name, group) not in self.groups:
                self.groups[name, group] = _group(file, group, column, name)
                while len(self.groups) > 1 and sum(kept.size for kept in self.groups.values()) > KEPT:
                    self.groups.popitem(last=False)
            self.groups.move_to_end((name, group))
            return self.groups[name, group].content(row - starts[group])

    def _file(self, name: str) -> tuple[Any, str, tuple[int, ...]]:
        if name not in self.files:
            if len(self.files) >= OPEN:
                self.files.popitem(last=False)[1][0].close(force=True)
            file = _parquet_file(self.folder / name)
            counts = (file.metadata.row_group(group).num_rows for group in range(file.num_row_groups))
            self.files[name] = file, _columns(file, name).content, tuple(accumulate(counts, initial=0))
        return self.files[name]


@dataclass(frozen=True)
class _Group:
    """The images of a row group, decoded in steps that begin at the rows `starts`, and how large they are."""

    steps: list[Any]
    starts: tuple[int, ...]
    size: int

    def content(self, row: int) -> bytes | None:
        step = bisect_right(self.starts, row) - 1
        found: bytes | None = self.steps[step][row - self.starts[step]].as_py()
        return found


def _group(file: Any, group: int, column: str, name: str) -> _Group:
    steps, size = [], 0
    for batch in file.iter_batches(_STEP, row_groups=[group], columns=[column], use_threads=False):
        values = batch.column(0)
        values = values.field("bytes") if "." in column else values
        size += values.nbytes
        if size > MOST_GROUP:
            raise BadImageError(f"{name} has row groups of more than {MOST_GROUP // 2**20:,} MB of images")
        steps.append(values)
    return _Group(steps, tuple(accumulate(map(len, steps), initial=0)), size)


def _parquet_file(path: Path) -> Any:
    try:
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise ValueError(
            f"{path.name} is a parquet file, which the package pyarrow reads: pip install pyarrow"
        ) from error
    with open_regular(path):  # a file that may be read, and no pipe
        return ParquetFile(path)


@contextmanager
def _said(name: str) -> Iterator[None]:
    """Turn what pyarrow raises of a damaged file into one sentence."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or " ".join(str(error).split())
        raise ValueError(f"{name} cannot be read ({reason[:120]})") from error
    except Exception as error:
        if type(error) in (ValueError, BadImageError):  # ours
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{name} is damaged, or is no parquet file ({reason[:120]})") from error
